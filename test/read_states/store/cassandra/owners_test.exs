defmodule ReadStates.Store.Cassandra.OwnersTest do
  use ReadStates.CassandraCase

  alias ReadStates.OwnersContract
  alias ReadStates.Store.Cassandra

  @moduletag :cassandra
  @moduletag :tmp_dir
  @moduletag :capture_log
  @moduletag timeout: 300_000

  test "every row is one that some owner wrote, the highest version wins, and no commit is refused",
       %{opts: opts, tmp_dir: tmp_dir} do
    OwnersContract.at_once(Cassandra, opts, tmp_dir)
  end

  test "an instance that was killed takes up its journal, though others have written to the store since",
       %{opts: opts, tmp_dir: tmp_dir} do
    OwnersContract.journal_taken_up({Cassandra, opts}, {Cassandra, opts}, tmp_dir)
  end

  test "a journal that comes back after another owner took its users is carried out above what that one wrote",
       %{opts: opts, tmp_dir: tmp_dir} do
    OwnersContract.journal_above(Cassandra, opts, tmp_dir)
  end

  test "a counter that was appended keeps nothing of what an instance without it has written over",
       %{opts: opts} do
    OwnersContract.appended(Cassandra, opts)
  end
end
