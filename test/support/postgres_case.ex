defmodule ReadStates.PostgresCase do
  @moduledoc """
  Tests on a real PostgreSQL. The module has tables of its own, which are empty at the start of each test: `opts` in its context are the
  options of a store on them.
  """

  use ExUnit.CaseTemplate

  alias ReadStates.Services
  alias ReadStates.Store.Postgres

  @psql ["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "-v", "ON_ERROR_STOP=1"]

  setup context do
    [opts: emptied!(context.module)]
  end

  @doc "The options of a store on the tables of a module."
  def options(module) do
    table = module |> Module.split() |> Enum.drop(1) |> Enum.join("_") |> Macro.underscore()
    [url: url(), table: String.replace(table, "/", "_")]
  end

  @doc "The options of a store on the tables of a module, which are there and empty."
  def emptied!(module) do
    opts = options(module)
    :ok = Postgres.set_up(opts)
    for suffix <- ["", "_deletes", "_notes"], do: sql!("TRUNCATE #{opts[:table]}#{suffix}")
    # The floor was in a table that is empty now.
    :ok = Postgres.set_up(opts)
    opts
  end

  @doc "The URL of the server's database, with its password."
  def url, do: Services.endpoints("postgres")["url"]

  @doc "Runs statements with psql, and returns what they print, without ornaments."
  def sql!(statements, url \\ url()) do
    {said, status} = System.cmd("psql", @psql ++ ["-c", statements, url], stderr_to_stdout: true)
    if status == 0, do: String.trim(said), else: raise("psql: #{said}")
  end

  @doc "Calls `fun` while a transaction of somebody else holds what this statement has locked."
  def locked(statement, fun) do
    psql = System.find_executable("psql")
    args = @psql ++ [url()]
    port = Port.open({:spawn_executable, psql}, [:binary, :exit_status, line: 100, args: args])
    Port.command(port, "BEGIN; #{statement}; SELECT 'locked';\n")

    receive do
      {^port, {:data, {:eol, "locked"}}} -> :ok
      {^port, {:exit_status, status}} -> raise "psql ended with #{status}: #{statement}"
    after
      60_000 -> raise "psql does not say that it has: #{statement}"
    end

    result = fun.()
    # It reads no more, and ends its transaction.
    Port.close(port)
    result
  end
end
