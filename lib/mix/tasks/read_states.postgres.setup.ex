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

  alias Mix.ReadStates.Setup
  alias ReadStates.Store.Postgres

  @requirements ["app.config"]
  @switches [schema: :string, table: :string, timeout: :integer]

  @impl Mix.Task
  def run(args) do
    opts = Setup.parse!(args, @switches)
    table = Keyword.get(opts, :table, "read_states")
    schema = Keyword.get(opts, :schema, "public")
    there = "schema #{schema} has the tables #{table}, #{table}_deletes and #{table}_notes"
    Setup.run(Postgres, opts, [url: System.get_env("DATABASE_URL")], there)
  end
end
