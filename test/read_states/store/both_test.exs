defmodule ReadStates.Store.BothTest do
  use ExUnit.Case, async: true

  import ReadStates.Eventually

  alias ReadStates.{DetsStore, FaultyStore}
  alias ReadStates.Store.{Both, Local, Memory}

  @moduletag :tmp_dir

  use ReadStates.StoreContract,
    store: Both,
    opts: fn context ->
      [
        from: {Local, path: Path.join(context.tmp_dir, "from")},
        to: {DetsStore, path: Path.join(context.tmp_dir, "to")}
      ]
    end

  @context %{name: __MODULE__, counters: [:mention_count]}

  # Opens two stores with these entries as one.
  defp both(from, to) do
    stores = for entries <- [from, to], do: {Memory, data: filled(entries)}
    [from, to] = stores
    {:ok, store, _floor} = Both.open([from: from, to: to], @context)
    {store, stores}
  end

  defp filled(entries) do
    data = Memory.new()
    {:ok, store, 0} = Memory.open([data: data], @context)
    :ok = StoreContract.commit(Memory, store, entries)
    data
  end

  defp entries({module, opts}) do
    {:ok, store, _floor} = module.open(opts, @context)
    StoreContract.scan(module, store)
  end

  test "reads of each read state the newer, and what is deleted in one is deleted" do
    {store, _stores} =
      both(
        [row(1, 1, 5), row(1, 2, 5), row(1, 3, 5), row(1, 4, 5), row(2, 1, 5), row(3, 1, 5)],
        [
          row(1, 1, 6),
          row(1, 2, 4),
          {:delete, 1, {0, 3}, 6},
          {:delete, 2, 6},
          row(2, 2, 7),
          row(4, 1, 3)
        ]
      )

    expected = [
      row(1, 1, 6),
      row(1, 2, 5),
      row(1, 4, 5),
      row(2, 2, 7),
      row(3, 1, 5),
      row(4, 1, 3)
    ]

    assert rows(load(store, [1, 2, 3, 4])) == expected
    assert rows(scan(store)) == expected
    assert {:delete, 1, {0, 3}, 6} in load(store, [1])
    assert {:delete, 2, 6} in scan(store)
  end

  test "of what the second store has of earlier days, only what the first has deleted and forgotten is there again" do
    {store, _stores} =
      both(
        [row(1, 1, 9), row(1, 2, 9), {:delete, 1, {0, 3}, 9}, {:delete, 2, 9}],
        [row(1, 1, 9), row(1, 2, 5), row(1, 3, 5), row(1, 4, 5), row(2, 1, 5)]
      )

    rows = for %ReadStates.Row{} = row <- StoreContract.scan(Both, store), do: row
    assert rows == [row(1, 1, 9), row(1, 2, 9), row(1, 4, 5)]
  end

  test "random histories, each entry in one of the two or in both, leave what the version rule says" do
    :rand.seed(:exsss, {1, 2, 3})
    all = for base <- 0..600//10, _ <- 1..15, entry <- random_entries(base), do: entry
    # Of equal versions there is only one.
    all = Enum.uniq_by(all, &{elem_user(&1), version(&1)})
    sides = Enum.map(all, &{&1, Enum.random([:from, :to, :both])})
    only = fn side -> for {entry, of} <- sides, of in [side, :both], do: entry end
    {store, _stores} = both(only.(:from), only.(:to))
    assert rows(scan(store)) == surviving(all)
    users = Enum.uniq(Enum.map(all, &elem_user/1))
    assert rows(load(store, users)) == surviving(all)
  end

  test "has in both what is committed" do
    {store, stores} = both([row(1, 1, 5)], [])
    :ok = commit(store, [row(1, 2, 6), {:delete, 3, 7}])

    assert [[row(1, 1, 5), row(1, 2, 6), {:delete, 3, 7}], [row(1, 2, 6), {:delete, 3, 7}]] ==
             Enum.map(stores, &entries/1)
  end

  test "fails if one of the two fails, and says which", %{tmp_dir: dir} do
    faults = start_supervised!(%{id: :faults, start: {FaultyStore, :start_link, [self()]}})
    faulty = {FaultyStore, faults: faults, store: {Memory, data: Memory.new()}}
    away = {:return, {:error, :away}}

    for {opts, side} <- [{[from: faulty, to: Memory], :from}, {[from: Memory, to: faulty], :to}] do
      {:ok, store, _floor} = Both.open(opts, @context)

      for call <- [:load, :commit] do
        :ok = FaultyStore.set(faults, call, away)

        assert {:error, {^side, :away}} =
                 if(call == :load,
                   do: Both.load(store, [1], nil),
                   else: commit(store, [row(1, 1, 1)])
                 )

        :ok = FaultyStore.set(faults, call, nil)
      end

      assert commit(store, [row(1, 1, 1)]) == :ok
      :ok = FaultyStore.set(faults, :open, away)
      assert {:error, {^side, :away}} = Both.open(opts, @context)
      :ok = FaultyStore.set(faults, :open, nil)
    end

    # What could be opened is let go of.
    local = {Local, path: Path.join(dir, "local")}
    :ok = FaultyStore.set(faults, :open, away)
    assert {:error, {:to, :away}} = Both.open([from: local, to: faulty], @context)

    assert_raise ArgumentError, ~r/:paht/, fn ->
      Both.open([from: local, to: {Local, paht: "x"}], @context)
    end

    :ok = FaultyStore.set(faults, :open, {:return, :no_answer})
    assert :no_answer == Both.open([from: local, to: faulty], @context)

    assert {:ok, store, 0} = Local.open(elem(local, 1), @context)
    :ok = Local.close(store)
  end

  test "wrong options are named, and not shown" do
    for opts <- [
          [],
          [from: Memory],
          [from: Memory, to: nil],
          [from: Memory, to: {Nothing, password: "secret"}]
        ] do
      error =
        assert_raise ArgumentError, ~r/^(from|to) must be/, fn -> Both.open(opts, @context) end

      refute error.message =~ "secret"
    end

    assert_raise ArgumentError, ~r/two stores/, fn ->
      Both.open([from: Memory, to: Memory], @context)
    end

    assert_raise ArgumentError, ~r/:form/, fn -> Both.open([form: Memory], @context) end
    assert_raise ArgumentError, ~r/^name must be/, fn -> Both.copy(:nobody) end
    start_supervised!({ReadStates, name: __MODULE__, store: Memory})
    assert_raise ArgumentError, ~r/^name must be that of/, fn -> Both.copy(__MODULE__) end
  end

  # An instance on the two, with what they have before.
  defp copied(from, to, opts \\ []) do
    stores = [from: {Memory, data: filled(from)}, to: {Memory, data: filled(to)}]
    start_supervised!({ReadStates, name: __MODULE__, store: {Both, stores}})
    Both.copy(__MODULE__, opts)
  end

  test "what other instances bring to the second store is not looked at when told of them" do
    assert {:ok, [rows: 1, deletes: 0, users: 1]} =
             copied([row(1, 1, 5)], [row(1, 1, 6), row(2, 7, 3)], merge: true)

    assert_raise ArgumentError, ~r/^merge must be/, fn -> Both.copy(__MODULE__, merge: 1) end
  end

  test "says after copying what only the second has" do
    assert {:error, {:different, text}} = copied([row(1, 1, 5)], [row(1, 1, 5), row(2, 7, 3)])
    assert text =~ "it has 1 that from has not, for example %ReadStates.Row{user: 2, "
    assert text =~ "it has to be empty at first"
  end

  test "what is deleted in the second is not missed there: the delete is on its way to the first" do
    assert {:ok, _figures} =
             copied([row(1, 1, 5), row(2, 1, 5)], [{:delete, 1, {0, 1}, 5}, {:delete, 2, 6}])
  end

  test "what is committed to the second and not yet to the first is no difference" do
    faults = start_supervised!(%{id: :faults, start: {FaultyStore, :start_link, [self()]}})
    from = {FaultyStore, faults: faults, store: {Memory, data: filled([row(1, 1, 5)])}}
    to = {Memory, data: filled([])}
    opts = [name: __MODULE__, store: {Both, from: from, to: to}, commit_after: 0]
    start_supervised!({ReadStates, opts})
    # On its way while the stores are compared: it is held after the second has it.
    :ok = FaultyStore.set(faults, :commit, {:return, {:error, :away}})
    :ok = ReadStates.ack(__MODULE__, 2, 1, 7)
    eventually(fn -> match?([%{user: 2}], entries(to)) end)
    FaultyStore.forget(faults)
    copy = Task.async(fn -> Both.copy(__MODULE__) end)
    await_looked_for(faults, 2)
    :ok = FaultyStore.set(faults, :commit, nil)
    assert {:ok, _figures} = Task.await(copy, 60_000)
  end

  # Until the user, in whom the stores differ, is looked for in the first.
  defp await_looked_for(faults, user) do
    eventually(fn -> Enum.any?(FaultyStore.calls(faults, :load), &(user in &1)) end)
  end

  # A store that says nothing of the deletes it remembers, as Cassandra.
  defmodule Reticent do
    @behaviour ReadStates.Store
    defdelegate open(opts, context), to: Memory
    defdelegate commit(store, batch), to: Memory
    defdelegate close(store), to: Memory
    def load(store, users, cursor), do: store |> Memory.load(users, cursor) |> only_rows()
    def scan(store, cursor), do: store |> Memory.scan(cursor) |> only_rows()

    defp only_rows({:ok, batch, next}) do
      {:ok, ReadStates.Batch.new(for(%ReadStates.Row{} = row <- batch, do: row), 1), next}
    end
  end

  test "what is deleted in the second and not yet in the first is no difference, though the second does not say so" do
    faults = start_supervised!(%{id: :faults, start: {FaultyStore, :start_link, [self()]}})
    rows = [row(1, 1, 5), row(2, 1, 5)]
    from = {FaultyStore, faults: faults, store: {Memory, data: filled(rows)}}
    to = {Reticent, data: filled(rows)}
    opts = [name: __MODULE__, store: {Both, from: from, to: to}, commit_after: 0]
    start_supervised!({ReadStates, opts})
    :ok = FaultyStore.set(faults, :commit, {:return, {:error, :away}})
    :ok = ReadStates.delete(__MODULE__, 1, 1)
    eventually(fn -> entries(to) == [row(2, 1, 5)] end)
    FaultyStore.forget(faults)
    copy = Task.async(fn -> Both.copy(__MODULE__) end)
    await_looked_for(faults, 1)
    :ok = FaultyStore.set(faults, :commit, nil)
    assert {:ok, _figures} = Task.await(copy, 60_000)
  end

  test "does not leave the journal of a Local store behind", %{tmp_dir: dir} do
    local = {Local, path: Path.join(dir, "local")}

    ReadStates.OtherVM.run_and_kill("""
    {:ok, _} = Application.ensure_all_started(:read_states)
    {:ok, _} = ReadStates.start_link(name: R, store: #{inspect(local)})
    :ok = ReadStates.ack(R, 1, 2, 3)
    """)

    Process.flag(:trap_exit, true)

    for stores <- [[from: local, to: Memory], [from: Memory, to: local]] do
      assert {:error, {:journal, {:not_empty, text}}} =
               ReadStates.start_link(name: __MODULE__, store: {Both, stores})

      assert text =~ "has 1 records"
    end

    both = {Both, from: local, to: Memory}
    assert {:error, {:journal, _text}} = ReadStates.Copy.copy(both, {Local, path: dir <> "/to"})
  end

  defp elem_user(%ReadStates.Row{user: user}), do: user
  defp elem_user(delete), do: elem(delete, 1)

  defp version(%ReadStates.Row{version: version}), do: version
  defp version(delete), do: elem(delete, tuple_size(delete) - 1)
end
