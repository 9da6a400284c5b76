defmodule ReadStates.CopyTest do
  use ExUnit.Case, async: true

  import ReadStates.Eventually
  import ReadStates.StoreContents
  import ReadStates.StoreContract

  alias ReadStates.{Copy, DetsStore, FaultyStore, OtherVM}
  alias ReadStates.Store.{Local, Memory}

  doctest ReadStates.Copy

  @moduletag :tmp_dir

  setup context do
    dir = context[:tmp_dir] || "of a doctest"
    %{from: {Local, path: Path.join(dir, "from")}, to: {Local, path: Path.join(dir, "to")}}
  end

  defp random(seed) do
    :rand.seed(:exsss, {seed, 2, 3})
    for base <- 0..900//10, _ <- 1..10, entry <- random_entries(base), do: entry
  end

  test "between any two stores everything comes over, deletes too", %{tmp_dir: dir} do
    stores = [
      {Local, path: Path.join(dir, "local")},
      {DetsStore, path: Path.join(dir, "dets")},
      {Memory, data: Memory.new()},
      {Local, path: Path.join(dir, "another")}
    ]

    all = random(1)
    fill(hd(stores), all)

    for [from, to] <- Enum.chunk_every(stores, 2, 1, :discard) do
      assert {:ok, figures} = Copy.copy(from, to)
      assert figures[:rows] == length(surviving(all))
      assert figures[:users] == length(Enum.uniq_by(entries(from), &user/1))
      assert rows(entries(to)) == surviving(all)
    end
  end

  test "what the first store remembers as deleted stays so in the second" do
    [from, to] = for _ <- 1..2, do: {Memory, data: Memory.new()}
    fill(from, [row(1, 1, 5), {:delete, 1, {0, 2}, 7}, {:delete, 3, 7}])
    assert {:ok, [rows: 1, deletes: 2, users: 2, sha256: _]} = Copy.copy(from, to)
    fill(to, [row(1, 2, 6), row(3, 1, 6)])
    assert rows(entries(to)) == [row(1, 1, 5)]
  end

  test "of what is in both the newer wins", %{from: from, to: to} do
    fill(from, [row(1, 1, 10), row(1, 2, 10), row(1, 3, 10)])
    fill(to, [row(1, 1, 9), {:delete, 1, {0, 2}, 9}])
    assert {:ok, _figures} = Copy.copy(from, to)
    assert rows(entries(to)) == [row(1, 1, 10), row(1, 2, 10), row(1, 3, 10)]
  end

  test "what differs at the end is an error that says which", %{from: from} do
    # Local forgets deletes when it is opened.
    to = {Memory, data: Memory.new()}
    fill(from, for(n <- 1..600, do: row(n, 1, 10)))

    fill(to, [
      row(7, 1, 11),
      row(1_000, 5, 1),
      row(8, 1, 10, last_message_id: 5),
      {:delete, 9, 10}
    ])

    assert {:error, {:different, text}} = Copy.copy(from, to)

    assert text =~
             "to has 600 rows and from 600, of which to has 1 not at all, 1 newer and 1 with other values"

    assert text =~ "for example %ReadStates.Row{user: 8"
    assert text =~ "for example %ReadStates.Row{user: 9"
    assert text =~ "it has 1 that from has not, for example %ReadStates.Row{user: 1000"
  end

  test "several stores are merged into one: each brings its rows, and the newest stays" do
    [first, second, to] = for _ <- 1..3, do: {Memory, data: Memory.new()}
    fill(first, [row(1, 1, 10), row(2, 1, 10), row(3, 1, 10)])
    fill(second, [row(2, 1, 11), row(4, 1, 10), {:delete, 3, 11}])
    assert {:ok, _figures} = Copy.copy(first, to)
    assert {:error, {:different, text}} = Copy.copy(second, to)
    assert text =~ "it has 1 that from has not, for example %ReadStates.Row{user: 1"
    # What one deleted, or has older, is not missed.
    for from <- [second, first], do: assert({:ok, [_, _, _]} = Copy.copy(from, to, merge: true))
    assert rows(entries(to)) == [row(1, 1, 10), row(2, 1, 11), row(4, 1, 10)]

    fill(first, [row(4, 1, 10, last_message_id: 5)])
    assert {:error, {:different, text}} = Copy.copy(first, to, merge: true)
    assert text =~ "to has 0 not at all, 1 newer and 1 with other values"
  end

  test "what one of several Local stores deleted and another still has is back", context do
    path = &Path.join(context.tmp_dir, &1)
    [first, second, to] = for name <- ~w(first second to), do: {Local, path: path.(name)}
    fill(first, [row(1, 1, 10)])
    fill(second, [row(1, 1, 10), row(1, 2, 10), {:delete, 1, {0, 1}, 11}])
    for from <- [first, second], do: assert({:ok, [_, _, _]} = Copy.copy(from, to, merge: true))
    assert rows(entries(to)) == [row(1, 1, 10), row(1, 2, 10)]
  end

  test "counters are compared too", %{from: from, to: to} do
    fill(from, [row(1, 1, 10, counters: [1])])
    fill(to, [row(1, 1, 10, counters: [2])])
    assert {:error, {:different, _text}} = Copy.copy(from, to)
  end

  test "a user with very many rows is read once to compare them", %{from: from} do
    fill(from, for(channel <- 1..5_000, do: row(1, channel, 10)))
    faults = start_supervised!(%{id: :faults, start: {FaultyStore, :start_link, [self()]}})
    to = {FaultyStore, faults: faults, store: {Memory, data: Memory.new()}}
    assert {:ok, [rows: 5_000, deletes: 0, users: 1]} = Copy.copy(from, to, merge: true)
    assert FaultyStore.calls(faults, :load) == [[1]]
  end

  test "does not append counters to those of the first store", %{from: from, to: to} do
    fill(from, [row(1, 1, 10)])
    counters = [:mention_count, :mentoin_count]
    assert {:error, {:open, text}} = Copy.copy(from, to, counters: counters)
    assert text == "from: its counters are mention_count, and not mention_count, mentoin_count"
    assert entries(from) == [row(1, 1, 10)]
  end

  test "does not make a first store that is not there", %{from: {_, path: path} = from, to: to} do
    assert Copy.copy(from, to) == {:error, {:open, "from: no directory #{path}"}}
    refute File.exists?(path)
  end

  test "what is written to the first store meanwhile is an error that says so" do
    from = {Memory, data: Memory.new()}
    faults = start_supervised!(%{id: :faults, start: {FaultyStore, :start_link, [self()]}})

    for {before, meanwhile} <- [{row(1, 1, 10), row(1, 1, 11)}, {row(2, 1, 10), row(3, 1, 10)}] do
      fill(from, [before])
      to = {FaultyStore, faults: faults, store: {Memory, data: Memory.new()}}
      # Behind the page that is being copied.
      :ok = FaultyStore.set(faults, :commit, {:do, fn -> fill(from, [meanwhile]) end})
      assert {:error, {:different, text}} = Copy.copy(from, to)
      assert text =~ "to has 1 not at all" or text =~ "and 1 with other values"
    end
  end

  test "a failure that passes is not noticed, one that stays is an error", %{from: from} do
    fill(from, [row(1, 1, 10)])
    faults = start_supervised!(%{id: :faults, start: {FaultyStore, :start_link, [self()]}})
    data = Memory.new()
    to = {FaultyStore, faults: faults, store: {Memory, data: data}}
    :ok = FaultyStore.set(faults, :commit, {:script, [{:return, {:error, :away}}]})
    assert {:ok, [rows: 1, deletes: 0, users: 1, sha256: _]} = Copy.copy(from, to)

    # Tries are over after some seconds.
    :ok = FaultyStore.set(faults, :commit, {:return, {:error, {:io, "no space"}}})
    assert Copy.copy(from, to) == {:error, {:write, "to: no space"}}
  end

  test "a copy that was killed is made again, or goes on, and ends right", %{
    from: {_, from} = source,
    to: {_, to} = target,
    tmp_dir: dir
  } do
    all = for(user <- 1..400, channel <- 1..250, do: row(user, channel, user))
    fill(source, all)
    resume = Path.join(dir, "resume")

    for opts <- [[], [resume: resume]] do
      # Stops on its way: what comes after the first pages never ends, so no cursor behind it is noted.
      vm =
        OtherVM.start("""
        defmodule Slow do
          alias ReadStates.Store.Local
          defdelegate open(opts, context), to: Local
          defdelegate load(store, users, cursor), to: Local
          defdelegate scan(store, cursor), to: Local
          defdelegate close(store), to: Local

          def commit(store, batch) do
            :ok = Local.commit(store, batch)
            [first] = Enum.take(batch, 1)

            # The pages before it end, in whatever order they are committed.
            if first.user > 100 do
              IO.puts("a later page")
              Process.sleep(:infinity)
            end

            :ok
          end
        end

        {:ok, _} = Application.ensure_all_started(:logger)
        ReadStates.Copy.copy({ReadStates.Store.Local, #{inspect(from)}}, {Slow, #{inspect(to)}}, #{inspect(opts)})
        """)

      OtherVM.await(vm, "a later page")
      if opts != [], do: eventually(fn -> File.exists?(resume) end)
      OtherVM.kill(vm)

      there = length(rows(entries(target)))
      assert there > 0 and there < length(all)
      test = self()
      progress = fn done, all -> send(test, {:progress, done, all}) end
      # The file is of a copy to Slow, and so of another.
      if opts != [], do: assert({:error, {:resume, _}} = Copy.copy(source, target, opts))
      assert {:ok, figures} = Copy.copy(source, target, on_progress: progress)
      assert figures[:rows] == length(all)
      assert rows(entries(target)) == all
      assert_received {:progress, 300_000, 300_000}
      File.rm_rf!(to[:path])
    end
  end

  test "goes on where it was", %{from: from, tmp_dir: dir} do
    all = for(user <- 1..400, channel <- 1..250, do: row(user, channel, user))
    fill(from, all)
    resume = Path.join(dir, "resume")
    faults = start_supervised!(%{id: :faults, start: {FaultyStore, :start_link, [self()]}})
    to = {FaultyStore, faults: faults, store: {Memory, data: Memory.new()}}
    # The users from the fifth page on.
    away = {:of, Enum.to_list(161..400), {:return, {:error, :away}}}
    :ok = FaultyStore.set(faults, :commit, away)
    assert {:error, {:write, _}} = Copy.copy(from, to, resume: resume)
    assert File.exists?(resume)

    :ok = FaultyStore.set(faults, :commit, nil)
    FaultyStore.forget(faults)
    assert {:ok, figures} = Copy.copy(from, to, resume: resume)
    assert figures[:rows] == 100_000
    assert length(List.flatten(FaultyStore.calls(faults, :commit))) == 60_000
    refute File.exists?(resume)
  end

  test "errors name the store", %{from: from, to: to, tmp_dir: dir} do
    File.write!(Path.join(dir, "file"), "")
    nowhere = {Local, path: Path.join(dir, "file/below")}
    assert {:error, {:open, "from: " <> _}} = Copy.copy(nowhere, to)
    fill(from, [])
    assert {:error, {:open, "to: " <> _}} = Copy.copy(from, nowhere)
    assert_raise ArgumentError, ~r/two stores/, fn -> Copy.copy(from, from) end
    assert_raise ArgumentError, ~r/^from: .*paht/, fn -> Copy.copy({Local, paht: "x"}, to) end
    assert_raise ArgumentError, ~r/^to: store must/, fn -> Copy.copy(from, {Nothing, []}) end
    assert_raise ArgumentError, ~r/resume must/, fn -> Copy.copy(from, to, resume: 1) end
    assert_raise ArgumentError, ~r/:foo/, fn -> Copy.copy(from, to, foo: 1) end

    assert_raise ArgumentError, ~r/on_progress must/, fn ->
      Copy.copy(from, to, on_progress: fn _done -> :ok end)
    end
  end

  test "a journal with something in it is not left behind", %{from: {_, from} = source, to: to} do
    OtherVM.run_and_kill("""
    {:ok, _} = Application.ensure_all_started(:read_states)
    {:ok, _} = ReadStates.start_link(name: R, store: {ReadStates.Store.Local, #{inspect(from)}})
    :ok = ReadStates.ack(R, 1, 2, 3)
    """)

    assert {:error, {:journal, text}} = Copy.copy(source, to)
    assert text =~ "1 records"
    start_supervised!({ReadStates, name: __MODULE__, store: source})
    stop_supervised!({ReadStates, __MODULE__})
    assert {:ok, figures} = Copy.copy(source, to)
    assert figures[:rows] == 1
  end

  defp user(%ReadStates.Row{user: user}), do: user
  defp user(delete), do: elem(delete, 1)
end
