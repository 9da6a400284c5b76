defmodule Mix.Tasks.ReadStates.Copy do
  @shortdoc "Copies everything from one store to another"

  @moduledoc """
  Copies every read state from one store to another, and compares the two at the end.

      mix read_states.copy --from STORE --to STORE [--counters NAME,...] [--merge] [--resume FILE]

  A STORE is one of

  | STORE | the store |
  |---|---|
  | `local:PATH` | `ReadStates.Store.Local` in the directory PATH |
  | `postgres` | `ReadStates.Store.Postgres` in the database of the environment variable `DATABASE_URL` |
  | `postgres://USER:PASSWORD@HOST:PORT/DATABASE` | the same in this one; others on the machine can see the arguments of a command |
  | `cassandra:HOST[:PORT],.../KEYSPACE` | `ReadStates.Store.Cassandra` |
  | Elixir | as an instance is given it: a module, or `{module, options}` |

  for example

      mix read_states.copy --from local:data/read_states --to postgres
      mix read_states.copy --from local:data/read_states --to '{MyApp.Store, password: System.fetch_env!("PASSWORD")}'

  What is Elixir is evaluated, so that it may say where a password is rather than the password, and start
  what the store needs: `'(MyApp.Repo.start_link(); {MyApp.EctoStore, repo: MyApp.Repo})'`.

  What is in the second store before stays, and of what is in both the newer wins. So a copy that was interrupted can be made
  again from the beginning; with `--resume` it goes on where it was. No instance may write to the first store meanwhile; the guide
  [Moving to another store](moving.md) has a way without a stop.

  ## Options

    * `--from STORE`, `--to STORE` - required.
    * `--counters NAME,...` - the counters, as the instance has them, by default `mention_count`.
    * `--merge` - other stores are copied to the second one as well: at the end it must have every row of the first, as it is or newer, and
      what else it has is not looked at. The guide says what then comes of deletes.
    * `--resume FILE` - where to note how far the copy is. If FILE is there, it goes on from there; at the end FILE is removed.

  ## Output

  One `name value` line each:

  | name | value |
  |---|---|
  | `rows`, `deletes`, `users` | what the first store has: read states, deletes that it remembers, and users |
  | `sha256` | digest of the rows, taken of both stores after everything is copied. If they differ, the copy has failed. Not with `--merge` |
  | `seconds` | time of all of it |

  An error ends it with exit code 1, also when the stores differ at the end: something was written to one of them meanwhile, or was in
  the second one before.
  """

  use Mix.Task

  alias ReadStates.{Copy, Progress}
  alias ReadStates.Store.Address

  @requirements ["app.config"]
  @switches [from: :string, to: :string, counters: :string, merge: :boolean, resume: :string]
  @usage "mix read_states.copy --from STORE --to STORE [--counters NAME,...] [--merge] [--resume FILE]"

  @impl Mix.Task
  def run(args) do
    opts = parse(args)
    {:ok, _apps} = Application.ensure_all_started(:read_states)
    [from, to] = Enum.map([:from, :to], &store(&1, opts))

    case :timer.tc(fn -> copy(from, to, opts) end) do
      {microseconds, {:ok, figures}} ->
        seconds = :erlang.float_to_binary(microseconds / 1_000_000, decimals: 2)

        for {name, value} <- figures ++ [seconds: seconds],
            do: Mix.shell().info("#{name} #{value}")

      {_microseconds, {:error, {_reason, text}}} ->
        Mix.raise("--#{text}")
    end
  end

  defp parse(args) do
    case OptionParser.parse(args, strict: @switches) do
      {opts, [], []} ->
        for option <- [:from, :to],
            do: opts[option] || Mix.raise("--#{option} is missing: #{@usage}")

        opts

      # What it is given may be a password.
      {_opts, _args, [{option, _value} | _]} ->
        Mix.raise("#{option} is unknown or has no value: #{@usage}")

      {_opts, [_ | _], []} ->
        Mix.raise("there is more than the options: #{@usage}")
    end
  end

  defp store(option, opts) do
    Address.parse!(opts[option])
  rescue
    error in ArgumentError -> Mix.raise("--#{option} #{Exception.message(error)}")
  end

  defp copy(from, to, opts) do
    counters = opts |> Keyword.get(:counters, "mention_count") |> String.split(",", trim: true)

    Copy.copy(
      from,
      to,
      [counters: Enum.map(counters, &String.to_atom/1), on_progress: Progress.bar()] ++
        Keyword.take(opts, [:merge, :resume])
    )
  rescue
    error in ArgumentError -> Mix.raise("--#{Exception.message(error)}")
  after
    Progress.clear()
  end
end
