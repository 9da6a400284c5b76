defmodule Mix.Tasks.ReadStates.Postgres.Setup do
  @shortdoc "Makes the tables of ReadStates.Store.Postgres"

  @moduledoc """
  Makes what `ReadStates.Store.Postgres` needs: the tables of the read states, of the deletes that are remembered, and of the notes. What is
  there already stays as it is, so that the task can be run at each deployment.

      mix read_states.postgres.setup [--print] [OPTION...]

  The database is that of the environment variable `DATABASE_URL`, which also has the password: the arguments of a command can be
  seen by others.

  ## Options

    * `--print` - prints the statements, for a migration or for whoever may run them, instead of running them.
    * `--schema NAME`, `--table NAME`, `--timeout MILLISECONDS` - as the options of the store, with the same defaults.
    * `--tls` - an encrypted connection; with `--cacertfile FILE`, `--certfile FILE`, `--keyfile FILE` and `--no-verify-host` as in the
      store's option `:tls`.

  What goes wrong is printed in one line, with exit code 1.
  """

  use Mix.Task

  alias ReadStates.Secret
  alias ReadStates.Store.Postgres

  @requirements ["app.config"]
  @switches [
    print: :boolean,
    schema: :string,
    table: :string,
    timeout: :integer,
    tls: :boolean,
    cacertfile: :string,
    certfile: :string,
    keyfile: :string,
    verify_host: :boolean
  ]
  @tls [:cacertfile, :certfile, :keyfile, :verify_host]

  @impl Mix.Task
  def run(args) do
    {print, opts} = args |> parse() |> Keyword.pop(:print, false)
    if print, do: print(opts), else: set_up(opts)
  end

  defp print(opts) do
    for statement <- done!(opts, &Postgres.schema/1), do: Mix.shell().info(statement <> ";")
  end

  defp set_up(opts) do
    done!(opts, &Postgres.set_up/1)
    table = Keyword.get(opts, :table, "read_states")
    schema = Keyword.get(opts, :schema, "public")

    Mix.shell().info(
      "schema #{schema} has the tables #{table}, #{table}_deletes and #{table}_notes"
    )
  end

  defp done!(opts, fun) do
    secret = Secret.seal([url: System.get_env("DATABASE_URL")] ++ opts)

    case Secret.guard(secret, fn -> fun.(opts) end) do
      :ok -> :ok
      {:ok, result} -> result
      {:error, {%ArgumentError{message: message}, _stacktrace}} -> Mix.raise(message)
      {:error, {reason, text}} when is_atom(reason) -> Mix.raise(text)
      {:error, reason} -> Mix.raise(inspect(reason))
    end
  end

  defp parse(args) do
    case OptionParser.parse(args, strict: @switches) do
      {opts, [], []} -> with_tls(opts)
      {_opts, _args, [{option, _value} | _]} -> Mix.raise("#{option}: unknown, or a wrong value")
      {_opts, [_argument | _], _invalid} -> Mix.raise("there is more than the options")
    end
  end

  defp with_tls(opts) do
    {tls, opts} = Keyword.split(opts, @tls)

    case {opts[:tls], tls} do
      {true, tls} -> Keyword.put(opts, :tls, tls)
      {_no, []} -> Keyword.delete(opts, :tls)
      {_no, [{option, _value} | _]} -> Mix.raise("--#{option}: only with --tls")
    end
  end
end
