defmodule ReadStatesTest do
  use ReadStates.InstanceCase, async: true

  describe "the documentation:" do
    setup do
      start!(MyApp.ReadStates)
      :ok
    end

    doctest ReadStates
  end

  setup %{name: name} do
    start!(name, counters: [:mention_count, :replies])
    :ok
  end

  # {last message, mention count, replies} of channel 10 of user 1, or nil.
  defp state(name) do
    {:ok, states} = ReadStates.list(name, 1)

    case for(%{kind: 0, channel: 10} = state <- states, do: state) do
      [] -> nil
      [state] -> {state.last_message_id, state.counters.mention_count, state.counters.replies}
    end
  end

  defp put(name, last, mention_count, replies) do
    counters = [mention_count: mention_count, replies: replies]
    :ok = ReadStates.put(name, 1, 10, last, counters)
  end

  describe "ack/4" do
    test "moves forward and sets every counter to 0", %{name: name} do
      put(name, 100, 2, 3)
      assert ReadStates.ack(name, 1, 10, 101) == :ok
      assert state(name) == {101, 0, 0}
    end

    test "changes nothing at the same or an older message", %{name: name} do
      put(name, 100, 2, 3)
      assert ReadStates.ack(name, 1, 10, 100) == :ok
      assert ReadStates.ack(name, 1, 10, 99) == :ok
      assert state(name) == {100, 2, 3}
    end

    test "creates the read state, even at message 0", %{name: name} do
      assert state(name) == nil
      assert ReadStates.ack(name, 1, 10, 0) == :ok
      assert state(name) == {0, 0, 0}
    end
  end

  describe "increment/5" do
    test "adds one to the first counter, or what and where it is told", %{name: name} do
      assert ReadStates.increment(name, 1, 10, 100) == :ok
      assert ReadStates.increment(name, 1, 10, 101, by: 5, counter: :replies) == :ok
      assert ReadStates.increment(name, 1, 10, 101, counter: :mention_count) == :ok
      assert state(name) == {0, 2, 5}
    end

    test "changes nothing at a message that is read, but creates the read state", %{name: name} do
      put(name, 100, 2, 3)
      assert ReadStates.increment(name, 1, 10, 100) == :ok
      assert ReadStates.increment(name, 1, 10, 99, counter: :replies) == :ok
      assert state(name) == {100, 2, 3}
      assert ReadStates.increment(name, 1, 11, 0) == :ok
      assert {:ok, [_, %{channel: 11, last_message_id: 0}]} = ReadStates.list(name, 1)
      assert ReadStates.total(name, 1) == {:ok, 2}
    end

    test "stops at 2^32 - 1", %{name: name} do
      put(name, 0, 0xFFFF_FFFE, 0)
      assert ReadStates.increment(name, 1, 10, 1) == :ok
      assert ReadStates.increment(name, 1, 10, 2, by: 0xFFFF_FFFF) == :ok
      assert state(name) == {0, 0xFFFF_FFFF, 0}
    end

    test "by 0 only creates the read state", %{name: name} do
      assert ReadStates.increment(name, 1, 10, 1, by: 0) == :ok
      assert state(name) == {0, 0, 0}
    end

    test "takes many users, the same one also twice, or none", %{name: name} do
      assert ReadStates.increment(name, [1, 2, 1, @max], 10, 100, by: 2) == :ok
      assert ReadStates.increment(name, [], 10, 100) == :ok
      totals = for user <- [1, 2, @max, 3], do: ReadStates.total(name, user)
      assert totals == [ok: 4, ok: 2, ok: 2, ok: 0]
    end

    test "takes a list that is too long for a normal scheduler", %{name: name} do
      users = Enum.to_list(1..20_000)
      assert ReadStates.increment(name, users, 10, 100, counter: :replies) == :ok
      assert ReadStates.decrement(name, tl(users), 10, 100, counter: :replies) == :ok
      assert ReadStates.total(name, 1, :replies) == {:ok, 1}
      assert ReadStates.total(name, 20_000, :replies) == {:ok, 0}
    end
  end

  describe "decrement/5" do
    test "takes from a counter at a message that is not read", %{name: name} do
      put(name, 100, 5, 5)
      assert ReadStates.decrement(name, 1, 10, 101) == :ok
      assert ReadStates.decrement(name, 1, 10, 101, by: 2, counter: :replies) == :ok
      assert ReadStates.decrement(name, 1, 10, 100) == :ok
      assert state(name) == {100, 4, 3}
    end

    test "stops at 0", %{name: name} do
      put(name, 0, 1, 0)
      assert ReadStates.decrement(name, [1, 1], 10, 1) == :ok
      assert ReadStates.decrement(name, 1, 10, 1, by: 0xFFFF_FFFF, counter: :replies) == :ok
      assert state(name) == {0, 0, 0}
    end

    test "creates nothing", %{name: name} do
      assert ReadStates.decrement(name, 1, 10, 100) == :ok
      assert ReadStates.decrement(name, [1, 2], 10, 100) == :ok
      assert ReadStates.list(name, 1) == {:ok, []}
      assert ReadStates.list(name, 2) == {:ok, []}
    end
  end

  describe "put/5" do
    test "sets everything, also backwards; what is not named becomes 0", %{name: name} do
      put(name, 100, 5, 6)
      assert ReadStates.put(name, 1, 10, 90, %{replies: 1}) == :ok
      assert state(name) == {90, 0, 1}
      assert ReadStates.put(name, 1, 10, @max, []) == :ok
      assert state(name) == {@max, 0, 0}
      assert ReadStates.put(name, 1, 10, 0, replies: 0xFFFF_FFFF, mention_count: 1) == :ok
      assert state(name) == {0, 1, 0xFFFF_FFFF}
    end
  end

  describe "update/2" do
    test "carries operations out in their order", %{name: name} do
      operations = [
        {:ack, 1, 10, 100},
        {:increment, 1, 10, 101, 7},
        {:increment, 1, {0, 10}, 101, 2, :replies},
        {:decrement, 1, 10, 101, 3},
        {:decrement, 1, 10, 101, 1, :replies},
        {:put, 1, {255, 10}, 5, %{replies: 9}},
        {:put, 2, 10, 5, mention_count: 4},
        {:ack, 3, 10, 5},
        {:delete, 3},
        {:ack, 4, 10, 5},
        {:ack, 4, 11, 6},
        {:delete, 4, 10}
      ]

      assert ReadStates.update(name, operations) == :ok
      assert state(name) == {100, 4, 1}

      assert read(name, 1..4) == %{
               1 => %{
                 {0, 10} => {100, %{mention_count: 4, replies: 1}},
                 {255, 10} => {5, %{mention_count: 0, replies: 9}}
               },
               2 => %{{0, 10} => {5, %{mention_count: 4, replies: 0}}},
               4 => %{{0, 11} => {6, %{mention_count: 0, replies: 0}}}
             }
    end

    test "takes an empty list, and one too long for a normal scheduler", %{name: name} do
      assert ReadStates.update(name, []) == :ok
      operations = for message <- 1..50_000, do: {:increment, 1, rem(message, 7), message, 1}
      assert ReadStates.update(name, operations) == :ok
      assert ReadStates.total(name, 1) == {:ok, 50_000}
    end

    test "takes 1,000,000 operations", %{name: name} do
      # They are admitted as if each were of another user.
      :ok = ReadStates.resize(name, memory: 1_000_000_000, dirty_memory: 1_000_000_000)
      assert ReadStates.update(name, List.duplicate({:increment, 1, 10, 1, 1}, 1_000_000)) == :ok
      assert ReadStates.increment(name, List.duplicate(1, 1_000_000), 10, 1) == :ok
      assert ReadStates.total(name, 1) == {:ok, 2_000_000}
    end
  end

  describe "delete" do
    test "of a read state leaves the others, of a user none", %{name: name} do
      for channel <- [10, 11, {1, 10}], user <- [1, 2] do
        :ok = ReadStates.ack(name, user, channel, 100)
      end

      assert ReadStates.delete(name, 1, 10) == :ok
      assert ReadStates.delete(name, 1, 10) == :ok
      assert ReadStates.delete(name, 1, 99) == :ok
      assert {:ok, [%{channel: 11}, %{kind: 1, channel: 10}]} = ReadStates.list(name, 1)
      assert ReadStates.delete(name, 1) == :ok
      assert ReadStates.delete(name, 1) == :ok
      assert ReadStates.list(name, 1) == {:ok, []}
      assert {:ok, [_, _, _]} = ReadStates.list(name, 2)
    end

    test "begins anew: what was read before does not count", %{name: name} do
      put(name, 100, 2, 3)
      :ok = ReadStates.delete(name, 1, 10)
      :ok = ReadStates.increment(name, 1, 10, 50)
      assert state(name) == {0, 1, 0}
      :ok = ReadStates.delete(name, 1)
      :ok = ReadStates.ack(name, 1, 10, 20)
      assert state(name) == {20, 0, 0}
    end
  end

  describe "get/3" do
    test "of what was never written is 0 everywhere, and creates nothing", %{name: name} do
      assert ReadStates.get(name, 1, {7, 10}) ==
               {:ok,
                %ReadState{
                  kind: 7,
                  channel: 10,
                  last_message_id: 0,
                  counters: %{mention_count: 0, replies: 0}
                }}

      assert ReadStates.list(name, 1) == {:ok, []}
    end

    test "knows a plain channel as one of kind 0, and other kinds apart", %{name: name} do
      :ok = ReadStates.ack(name, 1, 10, 100)
      :ok = ReadStates.ack(name, 1, {1, 10}, 200)
      assert ReadStates.get(name, 1, {0, 10}) == ReadStates.get(name, 1, 10)
      assert {:ok, %{kind: 0, last_message_id: 100}} = ReadStates.get(name, 1, 10)
      assert {:ok, %{kind: 1, last_message_id: 200}} = ReadStates.get(name, 1, {1, 10})
      assert {:ok, %{kind: 2, last_message_id: 0}} = ReadStates.get(name, 1, {2, 10})
    end
  end

  describe "list/3" do
    setup %{name: name} do
      channels = [0, 1, 0x07FF_FFFF_FFFF_FFFF, 0x0800_0000_0000_0000, @max, {1, 0}, {255, @max}]
      for {channel, message} <- Enum.with_index(channels), do: ack(name, channel, message)
      :ok = ReadStates.increment(name, 1, 1, @max)
      :ok = ReadStates.increment(name, 1, @max, @max, counter: :replies)
      :ok = ReadStates.increment(name, 1, {1, 0}, @max, counter: :replies)

      %{
        sorted:
          for(channel <- channels, do: if(is_tuple(channel), do: channel, else: {0, channel}))
      }
    end

    defp ack(name, channel, message), do: :ok = ReadStates.ack(name, 1, channel, message)

    defp listed(name, opts \\ []) do
      {:ok, states} = ReadStates.list(name, 1, opts)
      for state <- states, do: {state.kind, state.channel}
    end

    test "is sorted by kind and id, as unsigned numbers", %{name: name, sorted: sorted} do
      assert listed(name) == sorted
      {:ok, states} = ReadStates.list(name, 1)
      assert Enum.map(states, & &1.last_message_id) == Enum.to_list(0..6)
    end

    test "goes on after a channel, which need not be there", %{name: name, sorted: sorted} do
      for {channel, index} <- Enum.with_index(sorted) do
        assert listed(name, after: channel) == Enum.drop(sorted, index + 1)
      end

      assert listed(name, after: 2) == Enum.drop(sorted, 2)
      assert listed(name, after: {254, 0}) == [{255, @max}]
    end

    test "has at most so many", %{name: name, sorted: sorted} do
      for limit <- [0, 1, 6, 7, 8, @max, @max * @max] do
        assert listed(name, limit: limit) == Enum.take(sorted, limit)
      end

      assert listed(name, after: 0, limit: 2) == Enum.slice(sorted, 1, 2)
    end

    test "may have only those in which a counter is above 0", %{name: name} do
      assert listed(name, nonzero: :mention_count) == [{0, 1}]
      assert listed(name, nonzero: :replies) == [{0, @max}, {1, 0}]
      assert listed(name, nonzero: :replies, limit: 1) == [{0, @max}]
      assert listed(name, nonzero: :replies, after: @max) == [{1, 0}]
    end
  end

  describe "total/3" do
    test "sums a counter over the channels", %{name: name} do
      assert ReadStates.total(name, 1) == {:ok, 0}
      for channel <- 1..5, do: ReadStates.put(name, 1, channel, 0, mention_count: 0xFFFF_FFFF)
      :ok = ReadStates.increment(name, 1, {9, 1}, 1, counter: :replies, by: 7)
      assert ReadStates.total(name, 1) == {:ok, 5 * 0xFFFF_FFFF}
      assert ReadStates.total(name, 1, :mention_count) == {:ok, 5 * 0xFFFF_FFFF}
      assert ReadStates.total(name, 1, :replies) == {:ok, 7}
    end
  end

  test "stats/1 counts what there is and what happened", %{name: name} do
    assert %{users: 0, states: 0, memory: empty, dirty_memory: 0} = ReadStates.stats(name)
    :ok = ReadStates.load(name, [1, 2])
    for user <- 1..3, channel <- 10..11, do: :ok = ReadStates.ack(name, user, channel, 100)
    {:ok, _} = ReadStates.get(name, 1, 10)
    {:ok, _} = ReadStates.list(name, 2)

    assert %{users: 2, states: 4, channels: 2, dirty_users: 3, pending_operations: 2} =
             ReadStates.stats(name)

    {:ok, 0} = ReadStates.total(name, 3)
    :ok = ReadStates.commit(name)
    stats = ReadStates.stats(name)

    assert %{users: 3, states: 6, channels: 2, dirty_users: 0, pending_operations: 0} = stats
    assert %{load_queue: 0, dirty_memory: 0, hits: 2, misses: 1, loads: 3} = stats
    assert %{committed_entries: 6, evictions: 0, evicted_states: 0, overloads: 0} = stats
    assert stats.commits in 1..6
    assert stats.memory > empty

    commit_and_evict!(name)
    assert %{users: 0, states: 0, evictions: 3, evicted_states: 6} = ReadStates.stats(name)
  end

  test "every user id is a user of its own", %{name: name} do
    users = [0, 1, 0x07FF_FFFF_FFFF_FFFF, 0x0800_0000_0000_0000, 0x8000_0000_0000_0000, @max]

    for {user, message} <- Enum.with_index(users, 1) do
      :ok = ReadStates.ack(name, user, 10, message)
    end

    commit_and_evict!(name)

    for {user, message} <- Enum.with_index(users, 1) do
      assert {:ok, %{last_message_id: ^message}} = ReadStates.get(name, user, 10)
      assert {:ok, [_]} = ReadStates.list(name, user)
    end
  end

  test "1 to 4 counters, under names of any order", %{name: name} do
    for {names, index} <- Enum.with_index([[:z], [:z, :a], [:c, :b, :a], [:d, :a, :c, :b]]) do
      name = Module.concat(name, "#{index}")
      start!(name, counters: names)
      counters = names |> Enum.with_index(1) |> Map.new()
      :ok = ReadStates.put(name, 1, 10, 5, counters)
      for counter <- names, do: :ok = ReadStates.increment(name, 1, 10, 6, counter: counter)
      expected = Map.new(counters, fn {counter, count} -> {counter, count + 1} end)
      assert {:ok, %{counters: ^expected}} = ReadStates.get(name, 1, 10)
      assert {:ok, [%{counters: ^expected}]} = ReadStates.list(name, 1)

      for {counter, count} <- expected,
          do: assert(ReadStates.total(name, 1, counter) == {:ok, count})
    end
  end
end
