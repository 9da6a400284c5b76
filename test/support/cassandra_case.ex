defmodule ReadStates.CassandraCase do
  @moduledoc """
  Tests on a real Cassandra. The module has a table of its own, which is empty at the start of each test: `opts` in its context are the
  options of a store on it, and `cql` is a connection to the server, see `ReadStates.CQL`.
  """

  use ExUnit.CaseTemplate

  alias ReadStates.{CQL, Services}
  alias ReadStates.Store.Cassandra

  @keyspace "read_states_test"

  setup context do
    opts = emptied!(context.module)
    cql = CQL.connect!(hd(opts[:contact_points]))
    [opts: opts, cql: cql, states: "#{opts[:keyspace]}.#{opts[:table]}"]
  end

  @doc "The options of a store on the table of a module."
  def options(module) do
    table = module |> Module.split() |> List.last() |> Macro.underscore()
    points = String.split(Services.endpoints("cassandra")["contact_points"], ",")

    [
      contact_points: points,
      keyspace: @keyspace,
      table: table,
      replication_factor: 1,
      timeout: 20_000
    ]
  end

  @doc "The options of a store on the tables of a module, which are there and empty."
  def emptied!(module) do
    opts = options(module)
    :ok = Cassandra.set_up(opts)
    cql = CQL.connect!(hd(opts[:contact_points]))
    empty!(cql, opts)
    CQL.close(cql)
    opts
  end

  @doc "Removes everything from the tables of a store."
  def empty!(cql, opts) do
    for suffix <- ["", "_notes"] do
      CQL.run!(cql, "TRUNCATE #{opts[:keyspace]}.#{opts[:table]}#{suffix}")
    end
  end
end
