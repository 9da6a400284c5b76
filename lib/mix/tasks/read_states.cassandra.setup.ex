defmodule Mix.Tasks.ReadStates.Cassandra.Setup do
  @shortdoc "Makes the tables of ReadStates.Store.Cassandra"

  @moduledoc """
  Makes what `ReadStates.Store.Cassandra` needs: the keyspace, the table of the read states, and that of the notes. What is there
  already stays as it is, so that the task can be run at each deployment.

      mix read_states.cassandra.setup [--print] [OPTION...]

  ## Options

    * `--print` - prints the statements, for whoever may run them, instead of running them.
    * `--contact-points HOST:PORT,...`, `--keyspace NAME`, `--table NAME`, `--datacentre NAME`, `--user NAME`,
      `--replication-factor N`, `--timeout MILLISECONDS` - as the options of the store, with the same defaults. The replication factor is
      that of a keyspace that is made, in the datacentre, or in each where none is named.
    * `--tls` - an encrypted connection; with `--cacertfile FILE`, `--certfile FILE`, `--keyfile FILE` and `--no-verify-host` as in the
      store's option `:tls`.

  The password of `--user` is read from the environment variable `CASSANDRA_PASSWORD`: the arguments of a command can be seen by others.

  What goes wrong is printed in one line, with exit code 1.
  """

  use Mix.Task

  alias ReadStates.Secret
  alias ReadStates.Store.Cassandra

  @requirements ["app.config"]
  @switches [
    print: :boolean,
    contact_points: :string,
    keyspace: :string,
    table: :string,
    datacentre: :string,
    user: :string,
    replication_factor: :integer,
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
    for statement <- done!(opts, &Cassandra.schema/1), do: Mix.shell().info(statement <> ";")
  end

  defp set_up(opts) do
    done!(opts, &Cassandra.set_up/1)
    keyspace = Keyword.get(opts, :keyspace, "read_states")
    table = Keyword.get(opts, :table, "read_states")
    Mix.shell().info("keyspace #{keyspace} has the tables #{table} and #{table}_notes")
  end

  defp done!(opts, fun) do
    case Secret.guard(Secret.seal(opts), fn -> fun.(opts) end) do
      :ok -> :ok
      {:ok, result} -> result
      {:error, {%ArgumentError{message: message}, _stacktrace}} -> Mix.raise(message)
      {:error, {reason, text}} when is_atom(reason) -> Mix.raise(text)
      {:error, reason} -> Mix.raise(inspect(reason))
    end
  end

  defp parse(args) do
    case OptionParser.parse(args, strict: @switches) do
      {opts, [], []} -> opts |> split() |> with_password() |> with_tls()
      {_opts, _args, [{option, _value} | _]} -> Mix.raise("#{option}: unknown, or a wrong value")
      {_opts, [argument | _], _invalid} -> Mix.raise("unknown argument #{argument}")
    end
  end

  defp split(opts) do
    case opts[:contact_points] do
      nil -> opts
      points -> Keyword.put(opts, :contact_points, String.split(points, ",", trim: true))
    end
  end

  defp with_password(opts) do
    case {opts[:user], System.get_env("CASSANDRA_PASSWORD")} do
      {nil, _password} -> opts
      {_user, nil} -> Mix.raise("--user: its password is to be in CASSANDRA_PASSWORD")
      {_user, password} -> Keyword.put(opts, :password, password)
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
