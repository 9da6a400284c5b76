defmodule ReadStates.Store.CassandraTest do
  use ReadStates.CassandraCase

  @moduletag :cassandra

  use ReadStates.StoreContract, store: ReadStates.Store.Cassandra, opts: & &1.opts
end
