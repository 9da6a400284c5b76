defmodule ReadStates.Store.Cassandra.ReplayTest do
  # Not async: it restarts the server.
  use ReadStates.CassandraCase

  alias ReadStates.{OtherVM, Replay, Services, Trace}
  alias ReadStates.Store.Cassandra

  @moduletag :cassandra
  @moduletag timeout: 1_200_000

  @trace Path.expand("../../../fixtures/community-2018-2021.tsv.gz", __DIR__)
  @digest "c5a77799343dc031e6f5e2476c19ee47f1a6f6279ed84515daf5dd73a4c10eea"

  test "the community trace leads to its digest with users who come and go, and after a restart of VM and server",
       %{opts: opts} do
    start_supervised!(
      {ReadStates,
       name: __MODULE__, store: {Cassandra, opts}, capacity: 2_000, load_timeout: 60_000}
    )

    figures = Replay.run(__MODULE__, Trace.stream!(@trace))
    assert figures[:sha256] == @digest
    assert figures[:states] == 65_131
    stats = ReadStates.stats(__MODULE__)
    # Each user once in any case.
    assert stats.loads > figures[:users] and stats.evictions > 0
    stop_supervised!({ReadStates, __MODULE__})

    Services.run(["stop", "cassandra"])
    Services.run(["start", "cassandra"])

    vm =
      OtherVM.start("""
      {:ok, _apps} = Application.ensure_all_started(:read_states)
      store = {ReadStates.Store.Cassandra, #{inspect(opts)}}
      {:ok, _instance} = ReadStates.start_link(name: Replay, store: store, load_timeout: 60_000)
      figures = ReadStates.Replay.read_back(Replay, ReadStates.Trace.stream!(#{inspect(@trace)}))
      IO.puts(figures[:sha256])
      Process.sleep(:infinity)
      """)

    OtherVM.await(vm, @digest)
    OtherVM.kill(vm)
  end
end
