defmodule Mix.Tasks.ReadStates.Replay do
  @shortdoc "Replays a message history through the public API"

  @moduledoc """
  Replays a message history through the public API of `ReadStates` and prints the figures of what it
  did and the digest of the resulting read states.

      mix read_states.replay TRACE [--store STORE] [--path DIR] [--capacity N] [--verify]

  TRACE is a file, plain or gzip, with one message a line, oldest first, five tab-separated fields:

      message_id  unix_seconds  channel_id  sender_id  mentioned

  Ids are unsigned 64-bit integers; `mentioned` is empty, user ids joined by commas, or `*`: everybody
  who has posted or been mentioned in the channel before. A sender who has not posted before, or not for
  1,800 s, first acks the channels with a mention of them; then they ack the channel at their
  own message, and the mention count of those whom the message mentions is incremented.

  ## Options

    * `--store STORE` - the store: `local`, the default (`ReadStates.Store.Local`), `memory` (`ReadStates.Store.Memory`), or one in the
      words of `mix read_states.copy`, for example `postgres` or `cassandra:HOST/KEYSPACE`, whose tables are there and empty.
    * `--path DIR` - where the local store keeps its data: a new or empty directory, kept afterwards.
      By default a temporary directory, removed at the end.
    * `--capacity N` - the capacity of the instance in read states, for example one so small that users are
      evicted and loaded again all the time.
    * `--verify` - replays nothing: reads back what an earlier replay of TRACE left in `--path`, or in a STORE that is neither
      `local` nor `memory`.

  ## Output

  One `name value` line each:

  | name | value |
  |---|---|
  | `messages` | lines of the trace |
  | `connects` | senders who posted for the first time, or after 1,800 s or more |
  | `acks` | acks, those that changed nothing included |
  | `mentions` | increments of a mention count |
  | `users`, `channels` | users and channels of the trace |
  | `states`, `unread_mentions` | read states at the end, and the sum of their mention counts |
  | `sha256` | digest of one line `user channel last_message_id mention_count` a read state, in ascending order |
  | `seconds` | time of the replay and of reading the states at the end |
  | `evictions`, `loads` | users evicted and loaded meanwhile |

  With `--verify`, `messages`, `connects`, `acks` and `mentions` are left out.

  A bad line ends the replay with its number and what is wrong with it, and exit code 1.
  """

  use Mix.Task

  alias ReadStates.{Instance, Progress, Replay, Row, Trace}
  alias ReadStates.Store.Address

  @requirements ["app.config"]
  @switches [store: :string, path: :string, capacity: :integer, verify: :boolean]
  @usage "mix read_states.replay TRACE [--store STORE] [--path DIR] [--capacity N] [--verify]"
  # A server may be slow, and an error would end the replay.
  @load_timeout 60_000

  @impl Mix.Task
  def run(args) do
    {trace, opts} = parse(args)
    {:ok, _apps} = Application.ensure_all_started(:read_states)

    with_store(opts, fn store ->
      with_instance(store, opts, fn name ->
        unless opts[:verify], do: check_empty(name)
        {figures, seconds} = replay(name, trace, opts)
        stats = ReadStates.stats(name)

        print(figures)
        print(seconds: :erlang.float_to_binary(seconds, decimals: 2))
        print(evictions: stats.evictions, loads: stats.loads)
      end)
    end)
  end

  defp parse(args) do
    {opts, trace} =
      case OptionParser.parse(args, strict: @switches) do
        {opts, [trace], []} -> {opts, trace}
        {_opts, _traces, [{option, value} | _]} -> invalid(option, value)
        {_opts, _traces, []} -> Mix.raise("expected one TRACE: #{@usage}")
      end

    store = Keyword.get(opts, :store, "local")
    # The others are there for who comes later.
    unkept = store in ["memory", "local"] and opts[:path] == nil

    cond do
      opts[:path] == "" -> invalid("--path", "")
      opts[:path] && store != "local" -> Mix.raise("--path is for --store local")
      opts[:verify] && unkept -> Mix.raise("--verify needs --path, the data to verify")
      opts[:verify] && opts[:path] && empty?(opts[:path]) -> no_data(opts[:path])
      opts[:path] && !opts[:verify] && !empty?(opts[:path]) -> not_empty(opts[:path])
      not File.exists?(trace) -> Mix.raise("TRACE: no such file: #{trace}")
      true -> {trace, Keyword.put(opts, :store, store)}
    end
  end

  @spec no_data(Path.t()) :: no_return
  defp no_data(path), do: Mix.raise("--path: no data in #{path}")

  defp empty?(path), do: File.ls(path) in [{:ok, []}, {:error, :enoent}]

  # Counts of mentions would be added to those of the earlier replay.
  @spec not_empty(Path.t()) :: no_return
  defp not_empty(path),
    do:
      Mix.raise(
        "--path: #{path} is not an empty directory; give another one, or --verify to read it back"
      )

  @spec invalid(String.t(), String.t() | nil) :: no_return
  defp invalid("--store", _nothing),
    do: Mix.raise("--store must be memory, local or a store of mix read_states.copy")

  defp invalid("--capacity", value),
    do: Mix.raise("--capacity must be an integer, got: #{value || "nothing"}")

  defp invalid("--path", _nothing), do: Mix.raise("--path must be a directory")

  defp invalid(option, _value) when option in ["--verify", "--no-verify"],
    do: Mix.raise("#{option} takes no value")

  defp invalid(option, _value), do: Mix.raise("unknown option #{option}: #{@usage}")

  defp with_store(opts, fun) do
    case {opts[:store], opts[:path]} do
      {"memory", nil} ->
        fun.(ReadStates.Store.Memory)

      {"local", nil} ->
        path =
          Path.join(
            System.tmp_dir!(),
            "read_states_replay-#{System.pid()}-#{System.unique_integer([:positive])}"
          )

        try do
          fun.({ReadStates.Store.Local, path: path})
        after
          File.rm_rf!(path)
        end

      {"local", path} ->
        fun.({ReadStates.Store.Local, path: path})

      {address, nil} ->
        fun.(address!(address))
    end
  end

  # It is not shown, for there may be a password in it.
  defp address!(address) do
    Address.parse!(address)
  rescue
    error in ArgumentError ->
      Mix.raise("--store is neither memory nor local, so it #{Exception.message(error)}")
  end

  # Counts of mentions would be added to what is there, as in a directory that is not empty.
  defp check_empty(name) do
    {module, store} = name |> Instance.fetch!() |> Instance.store()

    with {:ok, batch, _next} <- module.scan(store, nil) do
      if Enum.any?(batch, &match?(%Row{}, &1)),
        do: Mix.raise("--store: it is not empty; give another one, or --verify to read it back")
    end
  end

  # Under a supervisor of its own, whose exit does not end this process when the instance cannot start.
  defp with_instance(store, opts, fun) do
    {:ok, supervisor} = DynamicSupervisor.start_link(strategy: :one_for_one)
    name = :"#{__MODULE__}.#{System.unique_integer([:positive])}"

    instance =
      [name: name, store: store, load_timeout: @load_timeout] ++ Keyword.take(opts, [:capacity])

    option = if opts[:store] == "local", do: "--path", else: "--store"

    try do
      case DynamicSupervisor.start_child(supervisor, child_spec(instance)) do
        {:ok, _instance} -> fun.(name)
        # Of the store, with a text for people.
        {:error, {_reason, text}} when is_binary(text) -> Mix.raise("#{option}: #{text}")
        {:error, {%ArgumentError{message: text}, _stack}} -> Mix.raise("#{option}: #{text}")
        {:error, reason} -> Mix.raise("the instance did not start: #{inspect(reason)}")
      end
    after
      DynamicSupervisor.stop(supervisor)
    end
  end

  # Of the options only the capacity and the store come from outside.
  defp child_spec(opts) do
    ReadStates.child_spec(opts)
  rescue
    error in ArgumentError -> Mix.raise("--#{Exception.message(error)}")
  end

  defp replay(name, trace, opts) do
    lines = Trace.stream!(trace, on_read: Progress.bar())
    run = if opts[:verify], do: &Replay.read_back/2, else: &Replay.run/2
    {microseconds, figures} = :timer.tc(fn -> run.(name, lines) end)
    {figures, microseconds / 1_000_000}
  rescue
    error in Trace.Error -> Mix.raise(Exception.message(error))
  after
    Progress.clear()
  end

  defp print(figures) do
    Enum.each(figures, fn {name, value} -> Mix.shell().info("#{name} #{value}") end)
  end
end
