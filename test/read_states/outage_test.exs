defmodule ReadStates.OutageTest do
  use ReadStates.InstanceCase, async: true

  alias ReadStates.{Instance, OtherVM}

  @moduletag timeout: 1_000_000

  # `script/outage` makes it last for minutes.
  @seconds 3

  @tag :tmp_dir
  test "of the store at full write load: bounded while it lasts, exact afterwards", %{
    tmp_dir: tmp_dir
  } do
    for journal <- [nil, Path.join(tmp_dir, "journal")] do
      vm = OtherVM.start("ReadStates.Outage.live(#{@seconds}, #{inspect(journal)})")
      OtherVM.await(vm, "the store has what was acknowledged")
      OtherVM.kill(vm)
    end
  end

  describe "the application stays up" do
    # Its supervisor restarts nothing.
    defp start_application!(name, opts, max_restarts) do
      start_supervised!(%{
        id: :application,
        type: :supervisor,
        start:
          {Supervisor, :start_link,
           [
             [{ReadStates, options(name, opts)}],
             [strategy: :one_for_one, max_restarts: max_restarts, max_seconds: 3_600]
           ]}
      })
    end

    defp pids(name) do
      for process <- [name | Instance.processes(name)],
          pid = Process.whereis(process),
          do: {process, pid}
    end

    test "and no process is restarted while those of the store are, again and again", %{
      name: name
    } do
      faults = Module.concat(name, "Faults")
      # The store's own process, which is started again after it was killed.
      start_supervised!(%{
        id: :faults,
        start: {FaultyStore, :start_link, [self(), [name: faults]]}
      })

      {FaultyStore, opts} = faulty(faults)
      application = start_application!(name, [store: {FaultyStore, opts}, commit_after: 10], 0)
      :ok = ReadStates.load(name, [0])
      before = pids(name)
      assert length(before) == 9

      for message <- 1..300 do
        assert ReadStates.increment(name, [0, message], 10, message) == :ok
        assert ReadStates.total(name, 0) == {:ok, message}
        Process.sleep(5)
        pid = eventually(fn -> Process.whereis(faults) end)
        Process.exit(pid, :kill)
      end

      assert Process.alive?(application)
      assert pids(name) == before
      assert eventually(fn -> ReadStates.commit(name) == :ok end)
      assert stored(name)[0] == %{{0, 10} => {0, %{mention_count: 300}}}
      assert map_size(stored(name)) == 301
    end

    test "and a supervisor that dies meanwhile comes back without the store", %{name: name} do
      faults = start_faults!()
      application = start_application!(name, [store: faulty(faults)], 10)
      :ok = ReadStates.ack(name, 1, 10, 100)
      :ok = ReadStates.load(name, [1])

      for call <- [:open, :load, :commit],
          do: FaultyStore.set(faults, call, {:return, {:error, :away}})

      for message <- 101..110 do
        pid = eventually(fn -> Process.whereis(name) end)
        Process.exit(pid, :kill)
        eventually(fn -> Process.whereis(name) not in [nil, pid] end)
        assert ReadStates.ack(name, 1, 10, message) == :ok
        assert {:ok, %{last_message_id: ^message}} = ReadStates.get(name, 1, 10)
      end

      assert Process.alive?(application)
      for call <- [:open, :load, :commit], do: FaultyStore.set(faults, call, nil)
      assert eventually(fn -> ReadStates.commit(name) == :ok end)
      assert stored(name) == %{1 => %{{0, 10} => {110, %{mention_count: 0}}}}
    end
  end
end
