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

  alias Mix.ReadStates.Setup
  alias ReadStates.Store.Cassandra

  @requirements ["app.config"]
  @switches [
    contact_points: :string,
    keyspace: :string,
    table: :string,
    datacentre: :string,
    user: :string,
    replication_factor: :integer,
    timeout: :integer
  ]

  @impl Mix.Task
  def run(args) do
    opts = args |> Setup.parse!(@switches) |> split() |> with_password()
    keyspace = Keyword.get(opts, :keyspace, "read_states")
    table = Keyword.get(opts, :table, "read_states")
    there = "keyspace #{keyspace} has the tables #{table} and #{table}_notes"
    Setup.run(Cassandra, opts, opts, there)
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
end
