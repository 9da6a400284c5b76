defmodule ReadStates.JournalTest do
  use ReadStates.InstanceCase, async: true

  import ExUnit.CaptureLog

  alias ReadStates.{Call, FullDisk, Instance, Native, OtherVM}

  @moduletag :tmp_dir
  @moduletag timeout: 300_000
  @size 16 * 1024 * 1024

  setup do
    # Of an instance that does not start.
    Process.flag(:trap_exit, true)
    :ok
  end

  defp journal(dir, opts \\ []), do: [path: Path.join(dir, "journal"), max_size: @size] ++ opts

  # Another VM calls the functions of ReadStates, in turn with the instance's name and these arguments, and is killed.
  defp live_and_die(dir, calls, opts \\ []) do
    OtherVM.run_and_kill("""
    {:ok, _} = ReadStates.start_link([name: :other, store: {ReadStates.Store.Local, path: #{inspect(dir)}}] ++ #{inspect(opts)})
    for {function, arguments} <- #{inspect(calls, limit: :infinity)} do
      :ok = apply(ReadStates, function, [:other | arguments])
    end
    """)
  end

  # Until there is nothing left to recover; returns how often.
  defp kill_recoverer(name, killed) do
    if Native.is_recovering(Instance.fetch!(name).engine) do
      pid = Process.whereis(Instance.recoverer(name))
      if pid, do: Process.exit(pid, :kill)
      Process.sleep(5)
      kill_recoverer(name, if(pid, do: killed + 1, else: killed))
    else
      killed
    end
  end

  # Whether it stays refused, with the journal at its bound: before that only the next segment is not ready yet.
  defp refused?(name, write, tries \\ 50)
  defp refused?(_name, _write, 0), do: true

  defp refused?(name, write, tries) do
    case write.() do
      :ok ->
        false

      {:error, :overloaded} ->
        Process.sleep(10)
        at_bound? = ReadStates.stats(name).journal_size >= @size
        refused?(name, write, if(at_bound?, do: tries - 1, else: tries))
    end
  end

  defp segments(dir), do: Path.wildcard(Path.join([dir, "journal", "*.journal"]))

  test "what was accepted and not committed is there in the next life", %{
    name: name,
    tmp_dir: dir
  } do
    operations =
      for(user <- 1..50, channel <- 1..20, do: {:ack, user, channel, user + channel}) ++
        for(user <- 1..50, do: {:increment, user, {1, 2}, 100, user}) ++
        [{:delete, 7}, {:delete, 8, 3}, {:put, 9, 9, 1, %{mention_count: 4}}]

    live_and_die(dir, update: [operations], decrement: [10, {1, 2}, 100, [by: 3]])
    start!(name, store: {Local, path: dir})
    model = Model.update(%Model{}, operations ++ [{:decrement, 10, {1, 2}, 100, 3}])
    assert read(name, 1..50) == model.users
    :ok = ReadStates.commit(name)
    assert stored(name) == model.users
  end

  test "what had been committed is not done again", %{name: name, tmp_dir: dir} do
    for life <- 1..4 do
      committed = if rem(life, 2) == 0, do: [commit: []], else: []
      calls = [increment: [1, 10, 5], increment: [[1, 2], 10, 5]] ++ committed
      live_and_die(dir, calls ++ [increment: [1, 10, 5]])
    end

    start!(name, store: {Local, path: dir})
    assert {:ok, 12} == ReadStates.total(name, 1)
    assert {:ok, 4} == ReadStates.total(name, 2)
  end

  test "what was deleted stays deleted, also in a store that forgets deletes",
       %{name: name, tmp_dir: dir} do
    live_and_die(dir,
      increment: [[1, 2, 3], 10, 5],
      delete: [1, 10],
      delete: [2],
      update: [[{:ack, 3, 10, 9}, {:delete, 3}, {:ack, 3, 11, 1}]],
      commit: []
    )

    start!(name, store: {Local, path: dir})
    assert read(name, 1..3) == %{3 => %{{0, 11} => {1, %{mention_count: 0}}}}
  end

  for killed <- [false, true] do
    how = if killed, do: ", and who takes it up is killed again and again", else: ""

    test "a journal with more than there is memory for is taken up in portions, while others are served#{how}",
         %{name: name, tmp_dir: dir} do
      OtherVM.run_and_kill("""
      {:ok, _} = ReadStates.start_link(name: :other, store: {ReadStates.Store.Local, path: #{inspect(dir)}})
      users = Enum.to_list(1..60_000)
      # The store has the first of each.
      :ok = ReadStates.increment(:other, users, 1, 10)
      :ok = ReadStates.commit(:other)
      :ok = ReadStates.increment(:other, users, 1, 10)
      :ok = ReadStates.increment(:other, users, 2, 10)
      """)

      start!(name, store: {Local, path: dir}, memory: 16_000_000, dirty_memory: 4_000_000)
      kills = if unquote(killed), do: Task.async(fn -> kill_recoverer(name, 0) end)
      # Some 250 bytes an operation, by the bound, of 120,000.
      assert ReadStates.stats(name).pending_operations < 20_000
      users = 1..60_000
      deleted = Enum.take_every(users, 100)
      # What is taken up may be at the bound.
      accepted(fn -> ReadStates.update(name, for(user <- deleted, do: {:delete, user})) end)
      accepted(fn -> ReadStates.increment(name, deleted, 3, 10) end)
      accepted(fn -> ReadStates.increment(name, Enum.to_list(2..1_000), 1, 10) end)

      model =
        %Model{}
        |> Model.update(for user <- users, by <- [2], do: {:increment, user, 1, 10, by})
        |> Model.update(for user <- users, do: {:increment, user, 2, 10, 1})
        |> Model.update(for user <- deleted, do: {:delete, user})
        |> Model.update(for user <- deleted, do: {:increment, user, 3, 10, 1})
        |> Model.update(for user <- 2..1_000, do: {:increment, user, 1, 10, 1})

      assert read(name, users) == model.users
      :ok = ReadStates.commit(name)
      assert stored(name) == model.users
      if kills, do: assert(Task.await(kills, :infinity) > 3)
    end
  end

  test "a commit does not wait for what of the journal cannot be read again, and has it when it can",
       %{name: name, tmp_dir: dir} do
    local = {Local, path: dir}
    users = Enum.to_list(1..90_000)

    OtherVM.run_and_kill("""
    {:ok, _} = ReadStates.start_link(name: :other, store: #{inspect(local)})
    :ok = ReadStates.increment(:other, Enum.to_list(1..90_000), 1, 10)
    """)

    left = segments(dir)
    faults = start_supervised!({FaultyStore, self()})
    :ok = FaultyStore.set(faults, :load, :hang)
    store = {FaultyStore, faults: faults, store: local, record: false}
    journal = [path: Path.join(dir, "journal")]

    log =
      capture_log(fn ->
        start!(name, store: store, journal: journal, memory: 16_000_000, dirty_memory: 4_000_000)
        assert eventually(fn -> ReadStates.stats(name).pending_operations > 0 end)
        # Those with nothing in them are gone.
        old = Enum.filter(left, &File.exists?/1)
        for segment <- old, do: File.rename!(segment, segment <> ".away")
        :ok = FaultyStore.set(faults, :load, nil)
        assert ReadStates.commit(name) == {:error, :journal_failed}
        for segment <- old, do: File.rename!(segment <> ".away", segment)
        assert eventually(fn -> ReadStates.commit(name) == :ok end)
      end)

    assert log =~ "cannot read its journal again"
    assert map_size(stored(name)) == length(users)
  end

  test "a journal can be begun for a store that has something", %{name: name, tmp_dir: dir} do
    live_and_die(dir, [ack: [1, 10, 5], commit: []], journal: false)
    live_and_die(dir, ack: [1, 10, 6])
    start!(name, store: {Local, path: dir})
    assert {:ok, %{last_message_id: 6}} = ReadStates.get(name, 1, 10)
  end

  test "after an orderly stop there is nothing to read, and it can be switched off",
       %{name: name, tmp_dir: dir} do
    opts = [store: {Local, path: dir}]
    start!(name, opts)
    :ok = ReadStates.ack(name, 1, 10, 5)
    stop!(name)
    assert [_empty] = segments(dir)
    start!(name, [{:journal, false} | opts])
    assert {:ok, %{last_message_id: 5}} = ReadStates.get(name, 1, 10)
  end

  test "one that has nothing but damage is not passed over, whatever its path is called", %{
    name: name,
    tmp_dir: tmp_dir
  } do
    dir = Path.join(tmp_dir, "a[b]{c,d}?")
    live_and_die(dir, ack: [1, 10, 5])
    journal = Path.join(dir, "journal")
    opts = [name: name, store: {Local, path: dir}, journal: false]
    assert {:error, {:journal, {:not_empty, _text}}} = ReadStates.start_link(opts)

    # A wildcard would not find them.
    for file <- File.ls!(journal), String.ends_with?(file, ".journal") do
      file = Path.join(journal, file)
      %{size: size} = File.stat!(file)
      {:ok, io} = File.open(file, [:read, :write, :binary])
      :ok = :file.pwrite(io, 128, :binary.copy(<<0xAB>>, min(size - 128, 4_096)))
      :ok = File.close(io)
    end

    assert {:error, {:journal, {:not_empty, text}}} = ReadStates.start_link(opts)
    assert text =~ journal
  end

  test "it cannot be switched off while there is something in it, and back on when the store went on without it",
       %{name: name, tmp_dir: dir} do
    opts = [name: name, store: {Local, path: dir}]
    live_and_die(dir, ack: [1, 10, 5])

    assert {:error, {:journal, {:not_empty, text}}} =
             ReadStates.start_link([{:journal, false} | opts])

    journal = Path.join(dir, "journal")
    assert text =~ journal
    # Nor by another one in its place.
    elsewhere = [path: Path.join(dir, "elsewhere")]

    assert {:error, {:journal, {:not_empty, ^text}}} =
             ReadStates.start_link([{:journal, elsewhere} | opts])

    aside = Path.join(dir, "aside")
    File.rename!(journal, aside)
    live_and_die(dir, [ack: [1, 10, 4], commit: []], journal: false)
    File.rename!(aside, journal)
    assert {:error, {:journal, {:other_store, text}}} = ReadStates.start_link(opts)
    assert text =~ "without this journal"
    # Nothing of it was lost by trying.
    File.rename!(journal, aside)
    start!(name, [{:journal, path: Path.join(dir, "new")} | opts])
    assert {:ok, %{last_message_id: 4}} = ReadStates.get(name, 1, 10)
    assert Path.wildcard(Path.join(aside, "*.journal")) != []
  end

  test "segments go when they are committed, so that it does not fill", %{
    name: name,
    tmp_dir: dir
  } do
    start!(name, journal: journal(dir), commit_after: 20, dirty_memory: 64 * 1024 * 1024)
    # About three times its size.
    for message <- 1..800 do
      operations = for user <- 1..1_000, do: {:ack, user, 10, message}
      accepted(fn -> ReadStates.update(name, operations) end)
    end

    # By time segments are begun every five seconds.
    eventually(fn -> length(segments(dir)) <= 4 end)
    assert %{journal_size: size, max_journal_size: @size} = ReadStates.stats(name)
    assert size <= 4 * div(@size, 16)
  end

  test "past half of its bound commits hurry, long before anything is due",
       %{name: name, tmp_dir: dir} do
    hour = 60 * 60 * 1_000
    start!(name, journal: journal(dir), commit_after: hour, dirty_memory: 64 * 1024 * 1024)
    users = 1..1_000
    # So that the dirty memory stays far from its bound.
    :ok = ReadStates.load(name, Enum.to_list(users))

    # Some 48 KB of the journal.
    write = fn message ->
      acks = for user <- users, do: {:ack, user, 10, message}

      eventually(fn ->
        case ReadStates.update(name, acks) do
          :ok -> true
          {:error, :overloaded} -> false
        end
      end)
    end

    Enum.each(1..50, write)
    Process.sleep(300)
    assert %{commits: 0} = ReadStates.stats(name)
    # The next segments are counted too.
    Enum.each(51..200, write)
    eventually(fn -> ReadStates.stats(name).commits > 0 end)
    # In all two and a half times its size.
    Enum.each(201..900, write)
    :ok = ReadStates.commit(name)
    assert stored(name) == Map.new(users, &{&1, %{{0, 10} => {900, %{mention_count: 0}}}})
  end

  test "at its bound writes are refused, and reads go on, until the store is back",
       %{name: name, tmp_dir: dir} do
    faults = start_faults!()

    start!(name,
      store: faulty(faults),
      journal: journal(dir),
      commit_after: 50,
      dirty_memory: 64 * 1024 * 1024
    )

    :ok = ReadStates.load(name, [1])
    FaultyStore.set(faults, :commit, {:return, {:error, :away}})

    refused = &refused?(name, fn -> ReadStates.ack(name, 1, 10, &1) end)
    accepted = Enum.find(Stream.iterate(1, &(&1 + 1)), refused) - 1
    assert accepted > 300_000
    assert {:ok, %{last_message_id: ^accepted}} = ReadStates.get(name, 1, 10)
    assert %{journal_size: @size, overloads: overloads} = ReadStates.stats(name)
    assert overloads > 0
    # Of each kind of call.
    for call <- [
          &ReadStates.ack(&1, 1, 10, 1_000_000_000),
          &ReadStates.update(&1, [{:ack, 1, 10, 1_000_000_000}]),
          &ReadStates.update(&1, [{:ack, 1, 10, 1_000_000_000}, {:ack, 2, 10, 1_000_000_000}])
        ] do
      before = ReadStates.stats(name).overloads
      assert call.(name) == {:error, :overloaded}
      assert ReadStates.stats(name).overloads == before + 1
    end

    # As a batch too, of which nothing is done.
    batch = for message <- 1..5_000, do: {:increment, 1, 11, message, 1}
    assert {:error, :overloaded} = ReadStates.update(name, batch)
    assert {:ok, %{counters: %{mention_count: 0}}} = ReadStates.get(name, 1, 11)
    FaultyStore.set(faults, :commit, nil)
    accepted(fn -> ReadStates.update(name, batch) end)
    :ok = ReadStates.commit(name)

    assert stored(name) == %{
             1 => %{
               {0, 10} => {accepted, %{mention_count: 0}},
               {0, 11} => {0, %{mention_count: 5_000}}
             }
           }
  end

  test "a user who cannot be loaded does not stop the writes of others, and nothing of him is lost",
       %{name: name, tmp_dir: dir} do
    faults = start_faults!()
    opts = [store: faulty(faults), journal: journal(dir), commit_after: 20]
    start!(name, opts)
    others = Enum.to_list(1..1_000)
    :ok = ReadStates.load(name, others)
    FaultyStore.set(faults, :load, {:of, [0], {:return, {:error, :damaged}}})
    :ok = ReadStates.update(name, for(n <- 1..50, do: {:increment, 0, 10, n, 1}))

    # About three times its size, in two lives.
    for life <- [1, 2] do
      for message <- 1..450 do
        operations = for user <- others, do: {:ack, user, 10, 450 * life + message}

        accepted(fn -> ReadStates.update(name, [{:increment, 0, 11, message, 1} | operations]) end)
      end

      assert ReadStates.stats(name).pending_operations == 50 + 450 * life

      if life == 1 do
        stop!(name)
        start!(name, opts)
      end
    end

    # Who waits for all to be committed is told that one is not.
    assert {:error, :store_unavailable} = ReadStates.commit(name)
    FaultyStore.set(faults, :load, nil)
    eventually(fn -> ReadStates.commit(name) == :ok end)
    assert {:ok, 950} = ReadStates.total(name, 0)

    assert stored(name)[0] == %{
             {0, 10} => {0, %{mention_count: 50}},
             {0, 11} => {0, %{mention_count: 900}}
           }

    assert stored(name)[1_000] == %{{0, 10} => {1_350, %{mention_count: 0}}}
  end

  test "commits that write deletes down at its bound do not let others past it", %{
    name: name,
    tmp_dir: dir
  } do
    faults = start_faults!()
    start!(name, store: faulty(faults), journal: journal(dir), commit_after: 20)
    :ok = ReadStates.load(name, [1])
    # Nothing is committed, and each try has deletes that were not written down yet.
    FaultyStore.set(faults, :commit, {:return, {:error, :away}})

    # Until it stays refused, or never would be.
    Enum.find(Stream.iterate(1, &(&1 + 1)), fn message ->
      acks = for n <- 1..500, do: {:ack, 1, 10, 500 * message + n}
      refused? = refused?(name, fn -> ReadStates.update(name, acks) end)

      # A delete for the next commit.
      ReadStates.delete(name, 1, 10)
      refused? or ReadStates.stats(name).journal_size > 2 * @size
    end)

    # The deletes may have taken some room beyond it.
    assert ReadStates.stats(name).journal_size <= @size + div(@size, 16)
  end

  test "with sync_every: 0 who waits while the instance stops is answered when it is on the disk",
       %{name: name, tmp_dir: dir} do
    start!(name, journal: journal(dir, sync_every: 0))
    syncer = Process.whereis(Instance.syncer(name))
    :ok = :sys.suspend(syncer)
    write = Task.async(fn -> ReadStates.ack(name, 1, 10, 5) end)
    eventually(fn -> Process.info(syncer, :message_queue_len) == {:message_queue_len, 1} end)
    stop!(name)
    assert Task.await(write) == :ok
  end

  test "with sync_every: 0 nobody is answered before a sync, and one serves all who wait",
       %{name: name, tmp_dir: dir} do
    start!(name, journal: journal(dir, sync_every: 0))
    syncer = Process.whereis(Instance.syncer(name))
    test = self()

    tell_syncs = fn state, event, _name ->
      if event == {:in, :sync}, do: send(test, :syncs)
      state
    end

    :ok = :sys.install(syncer, {tell_syncs, nil})
    :ok = :sys.suspend(syncer)

    writers =
      for user <- 1..50 do
        Task.async(fn ->
          case rem(user, 4) do
            0 -> ReadStates.ack(name, user, 10, user)
            1 -> ReadStates.increment(name, [user, 100], 10, user)
            2 -> ReadStates.update(name, [{:put, user, 11, 5, []}, {:delete, user, 12}])
            3 -> ReadStates.delete(name, user, 13)
          end
        end)
      end

    eventually(fn -> Process.info(syncer, :message_queue_len) == {:message_queue_len, 50} end)
    assert Enum.all?(Task.yield_many(writers, 100), fn {_task, result} -> result == nil end)
    refute_received :syncs
    :ok = :sys.resume(syncer)
    assert writers |> Task.await_many(:infinity) |> Enum.uniq() == [:ok]
    # What it has told before is here then.
    :sys.get_state(syncer)
    assert_received :syncs
    refute_received :syncs
  end

  test "with sync_every: 0 calls of many processes are carried out and answered",
       %{name: name, tmp_dir: dir} do
    start!(name, journal: journal(dir, sync_every: 0))

    1..50
    |> Task.async_stream(
      fn user ->
        :ok = ReadStates.ack(name, user, 10, user)
        :ok = ReadStates.increment(name, [user, 0], 10, user + 1)
        :ok = ReadStates.update(name, [{:put, user, 11, 5, []}, {:delete, user, 12}])
        :ok = ReadStates.delete(name, user, 13)
      end,
      max_concurrency: 50,
      timeout: :infinity
    )
    |> Enum.each(fn result -> assert result == {:ok, :ok} end)

    assert {:ok, 50} = ReadStates.total(name, 0)
  end

  test "damage costs what it hits, and is reported", %{name: name, tmp_dir: dir} do
    live_and_die(dir, for(user <- 1..1_000, do: {:ack, [user, 10, user]}))
    first = hd(segments(dir))
    # In the middle of the record of an ack, which is 40 bytes long.
    {:ok, file} = :file.open(first, [:read, :write, :raw, :binary])
    :ok = :file.pwrite(file, 128 + 40 * 500 + 20, "damage")
    :ok = :file.close(file)
    log = ExUnit.CaptureLog.capture_log(fn -> start!(name, store: {Local, path: dir}) end)
    assert log =~ "40 bytes"
    assert log =~ first
    absent = for user <- 1..1_000, ReadStates.list(name, user) == {:ok, []}, do: user
    assert absent == [501]
  end

  test "an older copy of the store is reported, and what the journal has is carried out on it",
       %{name: name, tmp_dir: dir} do
    store = Path.join(dir, "store")
    opts = [store: {Local, path: store}, journal: journal(dir)]
    log = fn -> ExUnit.CaptureLog.capture_log(fn -> start!(name, opts) end) end
    start!(name, opts)
    :ok = ReadStates.increment(name, 1, 10, 5)
    stop!(name)
    copy = Path.join(dir, "copy")
    File.cp_r!(store, copy)
    refute log.() =~ "lacks changes"
    :ok = ReadStates.increment(name, 1, 10, 5)
    stop!(name)
    refute log.() =~ "lacks changes"
    stop!(name)

    live_and_die(store, [increment: [1, 10, 5]], journal: journal(dir))
    File.rm_rf!(store)
    File.cp_r!(copy, store)
    today = to_string(Date.utc_today())
    assert log.() =~ ~r/lacks changes that its store had confirmed, up to those of #{today}/
    # The first, and the last, which was not committed.
    assert {:ok, 2} == ReadStates.total(name, 1)
    :ok = ReadStates.increment(name, 1, 10, 5)
    stop!(name)
    refute log.() =~ "lacks changes"
    assert {:ok, 3} == ReadStates.total(name, 1)
  end

  # Of so many megabytes.
  defp full_disk!(dir, mib) do
    disk = FullDisk.mount!(Path.join(dir, "disk"), mib)
    on_exit(fn -> FullDisk.unmount(disk) end)
    disk
  end

  # The call that was refused is accepted some time, and what all calls amount to then.
  defp go_on(name, {n, model}) do
    call = FullDisk.call(n)
    eventually(fn -> Call.carry_out(name, call) == :ok end)
    Model.update(model, Call.operations(call))
  end

  defp check_stored(name, model) do
    # The first answer may be that of a commit which had failed before.
    eventually(fn -> ReadStates.commit(name) == :ok end)
    assert read(name, FullDisk.users()) == model.users
    assert stored(name) == model.users
  end

  @tag :full_disk
  test "a full disk refuses writes, says so, and goes on by itself", %{name: name, tmp_dir: dir} do
    disk = full_disk!(dir, 4)
    ballast = FullDisk.ballast(disk, 1536 * 1024)
    faults = start_faults!()
    start!(name, store: faulty(faults), journal: journal(disk), commit_after: 50)
    FaultyStore.set(faults, :commit, {:return, {:error, :away}})
    {n, model} = FullDisk.fill(name, :disk_full)
    assert n > 1_000
    # Nothing of what was refused is in them.
    assert read(name, FullDisk.users()) == model.users
    assert {:error, :disk_full} = ReadStates.update(name, [{:ack, 2, 3, 4}, {:ack, 5, 6, 7}])
    File.rm!(ballast)
    model = go_on(name, {n, model})
    FaultyStore.set(faults, :commit, nil)
    check_stored(name, model)
  end

  @tag :full_disk
  test "nothing acknowledged is lost by kill -9 while the disk is full", %{
    name: name,
    tmp_dir: dir
  } do
    disk = full_disk!(dir, 4)
    ballast = FullDisk.ballast(disk, 1536 * 1024)
    store = Path.join(dir, "store")
    refused = FullDisk.fill_and_die(journal(disk)[:path], store, Path.join(dir, "refused"))
    assert refused > 1_000
    File.rm!(ballast)
    start!(name, store: {Local, path: store}, journal: journal(disk))
    model = FullDisk.model(refused)
    assert read(name, FullDisk.users()) == model.users
    check_stored(name, model)
  end

  @tag :full_disk
  test "a start on a full disk says so, loses nothing and leaves nothing that is in the way of the next",
       %{name: name, tmp_dir: dir} do
    disk = full_disk!(dir, 16)
    path = Path.join(disk, "store")
    journal = journal(disk)

    start = fn ->
      ReadStates.start_link(name: name, store: {Local, path: path}, journal: journal)
    end

    ballast = FullDisk.ballast(disk, :all)
    full(start, disk)
    File.rm!(ballast)
    ballast = FullDisk.ballast(disk, 3 * 1024 * 1024)
    # Nothing of it is committed.
    refused = FullDisk.fill_and_die(journal[:path], path, Path.join(dir, "refused"))
    assert refused > 10_000

    # Wherever it is found that there is too little: a segment of the journal has 256 pages.
    for pages <- [0, 0, 1, 2, 3, 4, 6, 8, 16, 64, 250] do
      FullDisk.ballast(disk, :all)
      FullDisk.cut(ballast, pages)
      full(start, disk)
    end

    File.rm!(ballast)
    start!(name, store: {Local, path: path}, journal: journal)
    model = FullDisk.model(refused)
    assert read(name, FullDisk.users()) == model.users
    check_stored(name, model)
  end

  # For people and for programs.
  defp full(start, disk) do
    text =
      case start.() do
        {:error, {:disk_full, text}} -> text
        {:error, {:journal, {:disk_full, text}}} -> text
      end

    assert text =~ disk and text =~ "No space left on device"
  end

  for {where, folder, reason, least} <- [
        {"on it too", "disk", :disk_full, 1_000},
        {"elsewhere", "elsewhere", :overloaded, 20_000}
      ] do
    @tag :full_disk
    test "with the store on a full disk and the journal #{where}, writes go on as long as they can, and reads",
         %{name: name, tmp_dir: dir} do
      disk = full_disk!(dir, 16)
      store = {Local, path: Path.join(disk, "store")}
      journal = journal(Path.join(dir, unquote(folder)))
      start!(name, store: store, journal: journal, commit_after: 50)
      # Who is not resident is read from a store that may not be there.
      :ok = ReadStates.load(name, Enum.to_list(FullDisk.users()))
      ballast = FullDisk.ballast(disk, :all)
      {n, model} = FullDisk.fill(name, unquote(reason))
      assert n > unquote(least)
      assert read(name, FullDisk.users()) == model.users
      File.rm!(ballast)
      check_stored(name, go_on(name, {n, model}))
    end
  end

  @tag :full_disk
  test "a journal that has filled its disk is emptied by commits that have to write deletes down",
       %{name: name, tmp_dir: dir} do
    disk = full_disk!(dir, 4)
    faults = start_faults!()
    start!(name, store: faulty(faults), journal: journal(disk), commit_after: 50)
    users = Enum.to_list(FullDisk.users())
    counts = for user <- users, do: {:increment, user, 12, 1, 5}
    :ok = ReadStates.update(name, counts)
    :ok = ReadStates.load(name, users)
    :ok = ReadStates.commit(name)
    FaultyStore.set(faults, :commit, {:return, {:error, :away}})
    # So many that there are some of each partition.
    deletes = for user <- Enum.take(users, 30), do: {:delete, user, 12}
    for delete <- deletes, do: :ok = Call.carry_out(name, delete)
    before = Model.update(%Model{}, counts ++ deletes)
    {n, model} = FullDisk.fill(name, :disk_full, {1, before})
    assert ReadStates.stats(name).journal_size < @size
    FaultyStore.set(faults, :commit, nil)
    eventually(fn -> ReadStates.commit(name) == :ok end)
    # More than the disk holds.
    model = Enum.reduce(n..(n + 15_000), model, &go_on(name, {&1, &2}))
    check_stored(name, model)
  end

  # The disk of a journal is full, and the journal at its bound, with deletes to be written down before anything is committed.
  # Returns the instance's options, what fills the disk, the call that was refused, and what all before it amount to.
  defp fill_to_the_bound!(name, dir) do
    disk = full_disk!(dir, 24)
    faults = start_faults!()
    opts = [store: faulty(faults), journal: journal(disk), commit_after: 50]
    start!(name, opts)

    # So many that there are some of each partition, whose commits hang: no later one writes the deletes down.
    FaultyStore.set(faults, :commit, :hang)
    counts = for user <- Enum.take(FullDisk.users(), 30), do: {:increment, user, 12, 1, 5}
    :ok = ReadStates.update(name, counts)
    eventually(fn -> FaultyStore.hanging(faults, :commit) == 2 end)
    deletes = for {:increment, user, 12, 1, 5} <- counts, do: {:delete, user, 12}
    :ok = ReadStates.update(name, deletes)
    before = Model.update(%Model{}, counts ++ deletes)
    {n, model} = FullDisk.fill(name, :overloaded, {1, before})
    ballast = FullDisk.ballast(disk, :all)
    FaultyStore.set(faults, :commit, nil)
    eventually(fn -> ReadStates.commit(name) == {:error, :journal_failed} end)
    {opts, ballast, n, model}
  end

  @tag :full_disk
  test "a journal that is at its bound on a full disk is emptied when there is room for one more segment",
       %{name: name, tmp_dir: dir} do
    {_opts, ballast, n, model} = fill_to_the_bound!(name, dir)
    # The disk is said to be full when a commit has found it so.
    {:error, refused} = Call.carry_out(name, FullDisk.call(n))
    assert refused in [:overloaded, :disk_full]
    FullDisk.cut(ballast, 256)
    model = Enum.reduce(n..(n + 1_000), model, &go_on(name, {&1, &2}))
    check_stored(name, model)
  end

  @tag :full_disk
  test "an orderly stop waits for room on the disk of the journal", %{name: name, tmp_dir: dir} do
    {opts, ballast, _n, model} = fill_to_the_bound!(name, dir)

    room =
      Task.async(fn ->
        Process.sleep(500)
        FullDisk.cut(ballast, 256)
      end)

    refute capture_log(fn -> stop!(name) end) =~ inspect(name) <> " could not commit everything"
    Task.await(room)
    start!(name, opts)
    assert stored(name) == model.users
  end

  defp accepted(write) do
    with {:error, :overloaded} <- write.() do
      Process.sleep(5)
      accepted(write)
    end
  end

  test "wrong options are refused by name", %{name: name, tmp_dir: dir} do
    for {journal, message} <- [
          {:yes, "journal must be true, false or a keyword list, got: :yes"},
          {[size: 1], "journal must be one of [:path, :max_size, :sync_every], got: :size"},
          {true, "journal must be given a :path"},
          {[path: ""], "journal must be given a :path"},
          {[path: dir, max_size: 1], "max_size must be an integer from 16777216"},
          {[path: dir, sync_every: -1], "sync_every must be an integer from 0 to 60000, got: -1"},
          {[path: dir, sync_every: 1.0],
           "sync_every must be an integer from 0 to 60000, got: 1.0"}
        ] do
      error = assert_raise ArgumentError, fn -> start!(name, journal: journal) end
      assert Exception.message(error) =~ message
    end
  end

  test "where it cannot be, the instance does not start, and its store is free again",
       %{name: name, tmp_dir: dir} do
    file = Path.join(dir, "file")
    File.write!(file, "")
    store = {Local, path: Path.join(dir, "store")}
    opts = [name: name, store: store]

    assert {:error, {:journal, {:io, text}}} =
             ReadStates.start_link([{:journal, path: Path.join(file, "journal")} | opts])

    assert text =~ file
    start!(name, store: store)
  end
end
