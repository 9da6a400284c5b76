defmodule ReadStates.LargeUserTest do
  use ReadStates.InstanceCase, async: true

  # A user with a bit more than 100,000 channels, beside a small one: so many that also his total is long.

  @channels 100_010
  # Spread over the whole range, in no order.
  @step 0x9E37_79B9_7F4A_7C15

  @moduletag timeout: 300_000

  setup %{name: name} do
    faults = start_faults!()
    opts = [store: faulty(faults), capacity: 1_000_000]
    start!(name, opts)
    channels = for n <- 1..@channels, do: channel(n)
    operations = for {channel, n} <- Enum.with_index(channels, 1), do: {:put, 1, channel, n, []}
    :ok = ReadStates.update(name, operations)
    :ok = ReadStates.ack(name, 2, 10, 5)
    %{opts: opts, model: Model.update(%Model{}, operations), sorted: Enum.sort(channels)}
  end

  defp channel(n), do: {rem(n, 2), rem(n * @step, @max + 1)}

  defp same(name, model) do
    assert ReadStates.list(name, 1) == {:ok, Model.list(model, 1)}
    assert ReadStates.total(name, 1) == {:ok, Model.total(model, 1, :mention_count)}
    assert {:ok, %{last_message_id: 5}} = ReadStates.get(name, 2, 10)

    for n <- Enum.take_every(1..@channels, 997) do
      assert ReadStates.get(name, 1, channel(n)) == {:ok, Model.get(model, 1, channel(n))}
    end
  end

  test "is listed whole, and in pages", %{name: name, model: model, sorted: sorted} do
    same(name, model)

    pages =
      Stream.unfold([], fn opts ->
        case ReadStates.list(name, 1, [limit: 5_000] ++ opts) do
          {:ok, []} -> nil
          {:ok, page} -> {page, [after: {List.last(page).kind, List.last(page).channel}]}
        end
      end)

    assert Enum.map(pages, &length/1) == List.duplicate(5_000, 20) ++ [10]
    assert for(state <- Enum.concat(pages), do: {state.kind, state.channel}) == sorted
  end

  test "is read while it is written", %{name: name, model: model} do
    writer =
      Task.async(fn ->
        operations = for n <- 1..@channels, do: {:increment, 1, channel(n), @max, 1}
        for chunk <- Enum.chunk_every(operations, 100), do: :ok = ReadStates.update(name, chunk)
        Model.update(model, operations)
      end)

    for _ <- 1..20 do
      {:ok, states} = ReadStates.list(name, 1)
      assert length(states) == @channels
      assert Enum.all?(states, &(&1.counters.mention_count in [0, 1]))
    end

    same(name, Task.await(writer, :infinity))
  end

  test "is changed by every operation, committed, evicted and loaded", context do
    %{name: name, model: model, opts: opts} = context

    changes = fn model, salt ->
      operations =
        for n <- Enum.take_every(salt..@channels, 7) do
          channel = channel(n)

          case rem(n, 5) do
            0 -> {:ack, 1, channel, n + salt}
            1 -> {:increment, 1, channel, @max, salt}
            2 -> {:decrement, 1, channel, @max, 1}
            3 -> {:delete, 1, channel}
            4 -> {:put, 1, {2, n}, n, mention_count: n}
          end
        end

      :ok = ReadStates.update(name, operations)
      Model.update(model, operations)
    end

    model = changes.(model, 1)
    same(name, model)
    :ok = ReadStates.commit(name)
    assert stored(name) == Model.operation(model, {:ack, 2, 10, 5}).users

    # Only what changed since.
    before = ReadStates.stats(name).committed_entries
    :ok = ReadStates.increment(name, 1, channel(@channels), @max)
    model = Model.operation(model, {:increment, 1, channel(@channels), @max, 1})
    :ok = ReadStates.commit(name)
    assert ReadStates.stats(name).committed_entries == before + 1

    evict(name)
    eventually(fn -> evict(name) && ReadStates.stats(name).states <= 1 end)
    # Pending, 14,000 of them, while a load is under way.
    model = changes.(model, 2)
    same(name, model)

    restart!(name, opts)
    same(name, model)
    assert stored(name) == Model.operation(model, {:ack, 2, 10, 5}).users
  end

  test "is changed in one batch, also when that makes much dirty", %{name: name, model: model} do
    :ok = ReadStates.commit(name)
    operations = for n <- 1..@channels, do: {:increment, 1, channel(n), @max, 1}
    assert ReadStates.update(name, operations) == :ok
    more = for n <- 1..@channels, do: {:ack, 1, {3, n}, n}
    assert ReadStates.update(name, more) == :ok
    same(name, Model.update(model, operations ++ more))
  end

  test "is deleted channel by channel, and at once", %{name: name, model: model, opts: opts} do
    :ok = ReadStates.commit(name)
    operations = for n <- 1..60_000, do: {:delete, 1, channel(n)}
    :ok = ReadStates.update(name, operations)
    model = Model.update(model, operations)
    same(name, model)
    restart!(name, opts)
    same(name, model)

    :ok = ReadStates.delete(name, 1)
    assert ReadStates.list(name, 1) == {:ok, []}
    assert %{states: 1} = ReadStates.stats(name)
    :ok = ReadStates.ack(name, 1, 7, 7)
    restart!(name, opts)
    assert {:ok, [%{channel: 7, last_message_id: 7}]} = ReadStates.list(name, 1)
    assert {:ok, [_]} = ReadStates.list(name, 2)
  end

  test "leaves memory when evicted", %{name: name} do
    :ok = ReadStates.commit(name)
    %{memory: full} = ReadStates.stats(name)
    eventually(fn -> evict(name) && ReadStates.stats(name).states <= 1 end)
    # At least the message read last and a counter of each.
    eventually(fn -> ReadStates.stats(name).memory < full - @channels * (8 + 4) end)
    eventually(fn -> ReadStates.stats(name).channels <= 1 end)
  end
end
