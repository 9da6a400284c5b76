defmodule ReadStates.OptionsTest do
  use ReadStates.InstanceCase, async: true

  defmodule Floor do
    @behaviour ReadStates.Store

    @impl true
    def open(opts, _context), do: {:ok, opts, opts[:floor]}

    @impl true
    def load(_opts, _users, _cursor), do: {:error, :empty}

    @impl true
    def commit(_opts, _batch), do: {:error, :empty}

    @impl true
    def scan(_opts, _cursor), do: {:error, :empty}

    @impl true
    def close(opts) do
      send(opts[:test], {:closed, opts[:floor]})
      :ok
    end
  end

  @mib 1024 * 1024
  @not_integers [1.0, :atom, nil, "1", [1], {1}, :infinity]

  @bad [
    name: [
      nil,
      true,
      false,
      :undefined,
      "name",
      1,
      {:global, :name},
      {:via, Registry, :name},
      self(),
      String.to_atom(String.duplicate("n", 201))
    ],
    store: [
      nil,
      :no_such_module,
      Enum,
      "Local",
      1,
      {Memory},
      {Memory, nil},
      {Memory, [1]},
      {Memory, %{}},
      {Enum, []},
      {Memory, [], []}
    ],
    capacity: [0, -1, 0x1_0000_0000_0000 | @not_integers],
    memory: [0, -1, 4 * @mib - 1, 0x1_0000_0000_0000 | @not_integers],
    dirty_memory: [0, -1, @mib - 1, 512 * @mib + 1 | @not_integers],
    eviction: [:fifo, "lru"],
    journal: [:yes, "journal", 1, %{path: "journal"}],
    counters: [
      [],
      [:a, :b, :c, :d, :e],
      [:a, :a],
      [nil],
      ["a"],
      [1],
      [:a | :b],
      :mention_count,
      nil,
      %{a: 1}
    ],
    commit_after: [-1, 86_400_001 | @not_integers],
    load_timeout: [0, -1, 86_400_001 | @not_integers],
    drain_timeout: [0, -1, 86_400_001 | @not_integers]
  ]

  test "an option that is not possible is named, and nothing starts", %{name: name} do
    for {option, values} <- @bad, value <- values, start <- [:start_link, :child_spec] do
      opts = Keyword.put([name: name, store: Memory], option, value)
      error = assert_raise ArgumentError, fn -> apply(ReadStates, start, [opts]) end
      assert String.starts_with?(error.message, "#{option} must be "), error.message
    end

    assert_raise ArgumentError, ~r/^name must be/, fn -> ReadStates.stats(name) end
  end

  test "options that are no keyword list, or not known" do
    for opts <- [nil, :name, %{name: :a}, [1], [:name], [{"name", 1}], [{:name, :a} | :b]] do
      assert_raise ArgumentError, ~r/^opts must be a keyword list/, fn ->
        ReadStates.start_link(opts)
      end
    end

    assert_raise ArgumentError, ~r/^opts must be one of .*:capacity.*, got: :capasity$/, fn ->
      ReadStates.start_link(name: :a, capasity: 1)
    end

    assert_raise ArgumentError, "opts must have :memory once", fn ->
      ReadStates.start_link(name: :a, memory: 8 * @mib, memory: 16 * @mib)
    end
  end

  test "the extremes that are possible", %{name: name} do
    for opts <- [
          [capacity: 1, memory: 4 * @mib, dirty_memory: @mib],
          [memory: 4 * @mib, dirty_memory: 4 * @mib],
          [capacity: 0xFFFF_FFFF_FFFF, memory: 0xFFFF_FFFF_FFFF, dirty_memory: 0xFFFF_FFFF_FFFF],
          [commit_after: 0, load_timeout: 1, drain_timeout: 86_400_000],
          [commit_after: 86_400_000, load_timeout: 86_400_000, counters: [:a, :b, :c, :d]]
        ] do
      start!(name, opts)
      assert ReadStates.ack(name, 1, 10, 100) == :ok
      # A load of a millisecond may fail.
      assert eventually(fn -> ReadStates.commit(name) == :ok end)
      stop!(name)
    end
  end

  test "the documented defaults", %{name: name} do
    start_supervised!({ReadStates, name: name, store: Memory})

    assert %{capacity: 5_000_000, max_memory: 536_870_912, max_dirty_memory: 134_217_728} =
             ReadStates.stats(name)

    assert {:ok, %{counters: %{mention_count: 0}}} = ReadStates.get(name, 1, 10)
  end

  test "a store with wrong options of its own does not start", %{name: name} do
    Process.flag(:trap_exit, true)

    assert_raise ArgumentError, ~r/^path must be /, fn ->
      ReadStates.start_link(name: name, store: Local)
    end

    for data <- [1, make_ref()] do
      assert_raise ArgumentError, ~r/^data must be /, fn ->
        ReadStates.start_link(name: name, store: {Memory, data: data})
      end
    end
  end

  test "a store with an impossible floor does not start, and is closed", %{name: name} do
    Process.flag(:trap_exit, true)

    for floor <- [-1, 0x4000_0000_0000_0000, 1.0, nil] do
      store = {__MODULE__.Floor, test: self(), floor: floor}
      assert {:error, {:bad_floor, ^floor}} = ReadStates.start_link(name: name, store: store)
      assert_receive {:closed, ^floor}
    end
  end

  test "a persistent term that others keep under the name does no harm to either", %{name: name} do
    before = %{before: true}
    :persistent_term.put(name, before)
    on_exit(fn -> :persistent_term.erase(name) end)
    start!(name, store: Memory)
    assert :persistent_term.get(name) == before
    assert ReadStates.ack(name, 1, 10, 100) == :ok

    :persistent_term.put(name, %{later: true})
    assert {:ok, %{last_message_id: 100}} = ReadStates.get(name, 1, 10)
    stop!(name)
    assert :persistent_term.get(name) == %{later: true}
  end

  test "a child has the name in its id, and is a supervisor", %{name: name} do
    assert %{id: {ReadStates, ^name}, type: :supervisor} = ReadStates.child_spec(name: name)
    assert %{id: {ReadStates, ReadStates}} = ReadStates.child_spec([])
  end
end
