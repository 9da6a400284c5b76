defmodule ReadStates.ArgumentsTest do
  use ReadStates.InstanceCase, async: true

  # Every argument of every function, with everything it cannot be: an ArgumentError that names the argument, and
  # nothing has changed.

  @not_integers [1.0, :atom, nil, true, "1", {1, 2, 3}, %{}, 1..2]
  @not_ids [-1, @max + 1, -@max, [1] | @not_integers]
  @not_channels [
                  {256, 1},
                  {-1, 1},
                  {1.0, 1},
                  {nil, 1},
                  {1, -1},
                  {1, @max + 1},
                  {1, 1.0},
                  {1, nil}
                ] ++
                  [{1}, {1, 2, 3}, {} | @not_ids]
  @not_counts [-1, 0x1_0000_0000, [1] | @not_integers]
  @not_counters [:unknown, nil, "mention_count", 0, [:mention_count], {:mention_count}]
  @not_names [:no_such_instance, nil, "name", 1, {:global, :name}, self(), []]
  @not_options [
    nil,
    :by,
    1,
    %{},
    %{by: 1},
    [1],
    [:by],
    [{"by", 1}],
    [{:by, 1} | :by],
    [unknown: 1]
  ]
  @improper [1 | 2]
  @long 1_000_001

  @not_counter_maps [
    nil,
    :mention_count,
    1,
    "",
    {:mention_count, 1},
    %{unknown: 1},
    %{"mention_count" => 1},
    %{mention_count: -1},
    %{mention_count: 0x1_0000_0000},
    %{mention_count: 1.0},
    %{mention_count: nil},
    %{mention_count: 1, unknown: 0},
    [mention_count: 1, mention_count: 2],
    1..2,
    [1],
    [:mention_count],
    [mention_count: -1],
    [unknown: 1],
    [{"mention_count", 1}],
    [{:mention_count, 1} | :more],
    [mention_count: 1, replies: 2, mention_count: 3]
  ]

  # User 1 is resident, user 2 has a pending operation, and user 3 is not known.
  setup %{name: name} do
    start!(name, counters: [:mention_count, :replies])
    :ok = ReadStates.put(name, 1, 10, 100, mention_count: 1, replies: 2)
    :ok = ReadStates.load(name, [1])
    :ok = ReadStates.increment(name, 2, 10, 100)
    :ok
  end

  defp content(name) do
    # What is reusable is of all instances together, so also of tests that run meanwhile.
    stats = %{ReadStates.stats(name) | hits: 0, reusable_memory: 0}
    %{name => read(name, [1]), :stats => stats}
  end

  # `call` raises for each of the values, with a message that starts with the argument's name.
  defp refuses(name, argument, values, call) do
    before = content(name)

    for value <- values do
      error = assert_raise ArgumentError, fn -> call.(value) end

      assert String.starts_with?(error.message, argument <> " "),
             "#{inspect(value, limit: 5)}: #{error.message}"

      assert content(name) == before
    end
  end

  test "a user that cannot be", %{name: name} do
    for call <- [
          &ReadStates.ack(name, &1, 10, 200),
          &ReadStates.put(name, &1, 10, 200, []),
          &ReadStates.delete(name, &1, 10),
          &ReadStates.delete(name, &1),
          &ReadStates.get(name, &1, 10),
          &ReadStates.list(name, &1),
          &ReadStates.list(name, &1, limit: 1),
          &ReadStates.total(name, &1),
          &ReadStates.total(name, &1, :replies)
        ] do
      refuses(name, "user", @not_ids, call)
    end

    for call <- [
          &ReadStates.increment(name, &1, 10, 200),
          &ReadStates.decrement(name, &1, 10, 200),
          &ReadStates.decrement(name, &1, 10, 200, by: 2)
        ] do
      refuses(name, "user", @not_ids -- [[1]], call)
    end
  end

  test "a list of users that cannot be", %{name: name} do
    for call <- [
          &ReadStates.increment(name, &1, 10, 200),
          &ReadStates.decrement(name, &1, 10, 200, by: 2),
          &ReadStates.load(name, &1)
        ] do
      refuses(name, "users", [@improper, [@max | :more]], call)
      refuses(name, "users", [List.duplicate(1, @long)], call)
      refuses(name, "users[0]", for(bad <- @not_ids, do: [bad]), call)
      refuses(name, "users[2]", for(bad <- @not_ids, do: [1, 3, bad, 1]), call)
      # Longer than what a normal scheduler checks.
      refuses(
        name,
        "users[5000]",
        for(bad <- @not_ids, do: Enum.to_list(1..5_000) ++ [bad]),
        call
      )
    end

    refuses(name, "users", @not_ids -- [[1]], &ReadStates.load(name, &1))
    refuses(name, "users", [1], &ReadStates.load(name, &1))
  end

  test "a channel that cannot be", %{name: name} do
    for call <- [
          &ReadStates.ack(name, 1, &1, 200),
          &ReadStates.increment(name, 1, &1, 200),
          &ReadStates.increment(name, [1, 2], &1, 200),
          &ReadStates.decrement(name, 1, &1, 200),
          &ReadStates.put(name, 1, &1, 200, []),
          &ReadStates.delete(name, 1, &1),
          &ReadStates.get(name, 1, &1)
        ] do
      refuses(name, "channel", @not_channels, call)
    end

    refuses(name, "after", @not_channels, &ReadStates.list(name, 1, after: &1))
  end

  test "a message that cannot be", %{name: name} do
    for call <- [
          &ReadStates.ack(name, 1, 10, &1),
          &ReadStates.increment(name, 1, 10, &1),
          &ReadStates.increment(name, [1, 2], 10, &1, by: 2),
          &ReadStates.decrement(name, 1, 10, &1),
          &ReadStates.put(name, 1, 10, &1, [])
        ] do
      refuses(name, "message", @not_ids, call)
    end
  end

  test "a count that cannot be", %{name: name} do
    for call <- [
          &ReadStates.increment(name, 1, 10, 200, by: &1),
          &ReadStates.increment(name, [1, 2], 10, 200, by: &1),
          &ReadStates.decrement(name, 1, 10, 200, by: &1)
        ] do
      refuses(name, "by", @not_counts, call)
    end

    refuses(name, "limit", [-1, [1] | @not_integers], &ReadStates.list(name, 1, limit: &1))
  end

  test "a counter that is none of the instance's", %{name: name} do
    for call <- [
          &ReadStates.increment(name, 1, 10, 200, counter: &1),
          &ReadStates.increment(name, [1, 2], 10, 200, counter: &1, by: 2),
          &ReadStates.decrement(name, 1, 10, 200, counter: &1),
          &ReadStates.total(name, 1, &1)
        ] do
      refuses(name, "counter", @not_counters, call)
    end

    refuses(name, "nonzero", @not_counters, &ReadStates.list(name, 1, nonzero: &1))
  end

  test "counters that cannot be", %{name: name} do
    refuses(name, "counters", @not_counter_maps, &ReadStates.put(name, 1, 10, 200, &1))
  end

  test "options that cannot be", %{name: name} do
    for call <- [
          &ReadStates.increment(name, 1, 10, 200, &1),
          &ReadStates.increment(name, [1, 2], 10, 200, &1),
          &ReadStates.decrement(name, 1, 10, 200, &1),
          &ReadStates.list(name, 1, &1),
          &ReadStates.resize(name, &1)
        ] do
      refuses(name, "opts", @not_options, call)
    end

    refuses(name, "opts", [[limit: 1]], &ReadStates.increment(name, 1, 10, 200, &1))
    refuses(name, "opts", [[by: 1]], &ReadStates.list(name, 1, &1))
    refuses(name, "opts", [[counters: [:a]], [name: :a]], &ReadStates.resize(name, &1))
    # One of two might be checked and the other one used.
    twice = &for value <- &2, do: {&1, value}
    mib = 1024 * 1024
    refuses(name, "opts", [twice.(:dirty_memory, [mib, 999 * mib])], &ReadStates.resize(name, &1))
    refuses(name, "opts", [twice.(:by, [1, -1])], &ReadStates.increment(name, 1, 10, 200, &1))
    refuses(name, "opts", [twice.(:limit, [1, 2])], &ReadStates.list(name, 1, &1))
  end

  test "bounds that cannot be", %{name: name} do
    resize = fn bound -> &ReadStates.resize(name, [{bound, &1}]) end
    refuses(name, "capacity", [0, -1, @max | @not_integers], resize.(:capacity))
    refuses(name, "memory", [0, -1, 4 * 1024 * 1024 - 1, @max | @not_integers], resize.(:memory))

    refuses(
      name,
      "dirty_memory",
      [0, 1024 * 1024 - 1, @max | @not_integers],
      resize.(:dirty_memory)
    )

    # Above the bound on all memory, whichever of them is given; and a good bound beside a bad one is not set.
    %{max_memory: memory, max_dirty_memory: dirty} = ReadStates.stats(name)
    refuses(name, "dirty_memory", [memory + 1], resize.(:dirty_memory))
    refuses(name, "dirty_memory", [dirty - 1], resize.(:memory))
    refuses(name, "capacity", [0], &ReadStates.resize(name, memory: memory + 1, capacity: &1))
  end

  describe "a batch" do
    # What `operation` makes of each of the values is refused alone, after good operations, in a long batch after good
    # operations, and before one.
    defp refuses_operation(name, argument, values, operation) do
      good = [{:ack, 1, 10, 300}, {:delete, 2}, {:put, 3, 10, 1, []}, {:increment, 1, 10, 400, 1}]
      long = Enum.flat_map(1..500, fn _ -> good end)
      before = content(name)

      for value <- values, {batch, index} <- [{[], 0}, {good, 4}, {long, 2_000}] do
        bad = operation.(value)
        batch = batch ++ [bad, {:ack, 1, 10, 500}]
        error = assert_raise ArgumentError, fn -> ReadStates.update(name, batch) end

        assert String.starts_with?(
                 error.message,
                 "operations[#{index}], #{inspect(bad)}: #{argument}"
               ),
               error.message

        assert content(name) == before
      end
    end

    test "with a bad user, channel or message", %{name: name} do
      for operation <- [
            &{:ack, &1, 10, 200},
            &{:increment, &1, 10, 200, 1},
            &{:increment, &1, 10, 200, 1, :replies},
            &{:decrement, &1, 10, 200, 1},
            &{:put, &1, 10, 200, []},
            &{:delete, &1, 10},
            &{:delete, &1}
          ] do
        refuses_operation(name, "user must be", @not_ids, operation)
      end

      for operation <- [
            &{:ack, 1, &1, 200},
            &{:increment, 1, &1, 200, 1},
            &{:decrement, 1, &1, 200, 1, :replies},
            &{:put, 1, &1, 200, []},
            &{:delete, 1, &1}
          ] do
        refuses_operation(name, "channel must be", @not_channels, operation)
      end

      for operation <- [
            &{:ack, 1, 10, &1},
            &{:increment, 1, 10, &1, 1},
            &{:decrement, 1, 10, &1, 1, :replies},
            &{:put, 1, 10, &1, []}
          ] do
        refuses_operation(name, "message must be", @not_ids, operation)
      end
    end

    test "with a bad count, counter or counters", %{name: name} do
      for tag <- [:increment, :decrement] do
        refuses_operation(name, "by must be", @not_counts, &{tag, 1, 10, 200, &1})
        refuses_operation(name, "by must be", @not_counts, &{tag, 1, 10, 200, &1, :replies})
        refuses_operation(name, "counter must be", @not_counters, &{tag, 1, 10, 200, 1, &1})
      end

      refuses_operation(name, "counters must be", @not_counter_maps, &{:put, 1, 10, 200, &1})
    end

    test "with what is no operation", %{name: name} do
      bad = [
        nil,
        1,
        :ack,
        "ack",
        [],
        [:ack, 1, 10, 200],
        {},
        {:ack},
        {:delete},
        {:ack, 1},
        {:ack, 1, 10},
        {:ack, 1, 10, 200, 1},
        {:acknowledge, 1, 10, 200},
        {"ack", 1, 10, 200},
        {nil, 1, 10, 200},
        {:increment, 1, 10, 200},
        {:increment, 1, 10, 200, 1, :replies, 1},
        {:put, 1, 10, 200},
        {:put, 1, 10, 200, [], []},
        {:delete, 1, 10, 200},
        {1, 2, 3, 4},
        %{ack: 1}
      ]

      refuses_operation(name, "not one of the operations", bad, & &1)
    end

    test "that is no list, or too long", %{name: name} do
      bad = [nil, 1, 1.0, :ack, "", {}, {:ack, 1, 10, 200}, %{}, [{:ack, 1, 10, 200} | :more]]
      refuses(name, "operations", bad, &ReadStates.update(name, &1))
      long = List.duplicate({:ack, 1, 10, 200}, @long)
      refuses(name, "operations", [long], &ReadStates.update(name, &1))
    end
  end

  test "the name of no instance", %{name: name} do
    for call <- [
          &ReadStates.ack(&1, 1, 10, 200),
          &ReadStates.increment(&1, 1, 10, 200),
          &ReadStates.increment(&1, [1, 2], 10, 200, by: 2),
          &ReadStates.decrement(&1, 1, 10, 200),
          &ReadStates.put(&1, 1, 10, 200, []),
          &ReadStates.update(&1, [{:ack, 1, 10, 200}]),
          &ReadStates.get(&1, 1, 10),
          &ReadStates.list(&1, 1),
          &ReadStates.list(&1, 1, limit: 1),
          &ReadStates.total(&1, 1),
          &ReadStates.total(&1, 1, :replies),
          &ReadStates.delete(&1, 1, 10),
          &ReadStates.delete(&1, 1),
          &ReadStates.load(&1, [1]),
          &ReadStates.commit/1,
          &ReadStates.stats/1,
          &ReadStates.resize(&1, capacity: 1)
        ] do
      refuses(name, "name", @not_names, call)
    end
  end

  test "after all that, a commit writes what there was before", %{name: name} do
    refuses(name, "message", @not_ids, &ReadStates.ack(name, 3, 10, &1))
    :ok = ReadStates.commit(name)

    assert stored(name) == %{
             1 => %{{0, 10} => {100, %{mention_count: 1, replies: 2}}},
             2 => %{{0, 10} => {0, %{mention_count: 1, replies: 0}}}
           }
  end
end
