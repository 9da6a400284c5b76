defmodule ReadStates.Store.Postgres.ReplayTest do
  # Not async: the server is restarted.
  use ReadStates.PostgresCase, async: false

  alias ReadStates.{OtherVM, Replay, Services, Trace}
  alias ReadStates.Store.Postgres

  @moduletag :postgres
  @moduletag timeout: 900_000

  @trace "test/fixtures/community-2018-2021.tsv.gz"
  @digest "c5a77799343dc031e6f5e2476c19ee47f1a6f6279ed84515daf5dd73a4c10eea"

  test "the community's history, with users who come and go, and again after a restart of VM and server",
       %{opts: opts} do
    name = __MODULE__.Community
    store = {Postgres, opts}

    start_supervised!(
      {ReadStates, name: name, store: store, capacity: 2_000, load_timeout: 60_000}
    )

    figures = Replay.run(name, Trace.stream!(@trace))
    assert {figures[:messages], figures[:states], figures[:sha256]} == {352_520, 65_131, @digest}
    assert ReadStates.stats(name).evictions > 1_000
    stop_supervised!({ReadStates, name})

    Services.run(["stop", "postgres"])
    Services.run(["start", "postgres"])

    OtherVM.run_and_kill("""
    {:ok, _} = Application.ensure_all_started(:read_states)
    {:ok, _} = ReadStates.start_link(name: R, store: #{inspect(store)}, load_timeout: 60_000)
    figures = ReadStates.Replay.read_back(R, ReadStates.Trace.stream!(#{inspect(@trace)}))
    #{inspect(@digest)} = figures[:sha256]
    """)
  end
end
