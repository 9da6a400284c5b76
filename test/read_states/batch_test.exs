defmodule ReadStates.BatchTest do
  use ExUnit.Case, async: true

  alias ReadStates.{Batch, Row}

  doctest Batch

  @max 0xFFFF_FFFF_FFFF_FFFF
  @row %Row{
    user: @max,
    kind: 255,
    channel: 0,
    version: 1,
    writer: @max,
    last_message_id: 0x0800_0000_0000_0000,
    counters: [0xFFFF_FFFF, 0]
  }
  @entries [@row, {:delete, 0, {0, @max}, @max}, {:delete, @max, 0}, %{@row | user: 3}]

  test "what is put in comes out, in order" do
    batch = Batch.new(@entries, 2)
    assert Enum.to_list(batch) == @entries
    assert Enum.count(batch) == 4
    assert {:delete, @max, 0} in batch
    assert Enum.at(batch, 1) == {:delete, 0, {0, @max}, @max}
    assert Enum.zip(batch, 1..4) == Enum.zip(@entries, 1..4)
    assert Enum.take(batch, 1) == [@row]
    assert Enum.to_list(Batch.new([], 4)) == []
  end

  test "it is the binary that the stores in Rust read and write" do
    context = %{name: __MODULE__, counters: [:a, :b]}
    {:ok, store, 0} = ReadStates.Store.Memory.open([], context)

    batch =
      Batch.new([{:delete, 0, {0, @max}, @max}, %{@row | user: 3}, {:delete, @max, 0}, @row], 2)

    :ok = ReadStates.Store.Memory.commit(store, batch)
    assert {:ok, ^batch, nil} = ReadStates.Store.Memory.scan(store, nil)
  end

  test "what has no entries is refused" do
    assert_raise ArgumentError, "entries must be enumerable, got: 5", fn -> Batch.new(5, 1) end
  end

  test "a bad entry is named with what is wrong with it" do
    raises = fn entry, part ->
      error = assert_raise ArgumentError, fn -> Batch.new([@row, entry], 2) end
      assert error.message =~ part
    end

    for bad <- [-1, @max + 1, 1.0, nil, "1", :a] do
      for field <- [:user, :channel, :version, :writer, :last_message_id] do
        raises.(Map.put(@row, field, bad), "#{field} must be an integer from 0 to 2^64 - 1")
      end

      raises.({:delete, bad, {0, 1}, 1}, "user must be")
      raises.({:delete, 1, {0, bad}, 1}, "channel must be")
      raises.({:delete, 1, {0, 1}, bad}, "version must be")
      raises.({:delete, bad, 1}, "user must be")
      raises.({:delete, 1, bad}, "version must be")
      raises.(%{@row | kind: bad}, "kind must be an integer from 0 to 255")
      raises.({:delete, 1, {bad, 1}, 1}, "kind must be")
      raises.(%{@row | counters: [1, bad]}, "counters must be a list of 2 integers")
    end

    for counters <- [[], [1], [1, 2, 3], [1, 0x1_0000_0000], [1 | 2], 1, %{}] do
      raises.(%{@row | counters: counters}, "counters must be a list of 2 integers")
    end

    for entry <- [nil, {:delete, 1}, {:delete, 1, 2, 3}, {:remove, 1, 2}, %{user: 1}] do
      raises.(entry, "entry must be")
    end
  end

  test "the number of counters is checked" do
    for counters <- [0, 5, 1.0, nil] do
      assert_raise ArgumentError, ~r/^counters must be/, fn -> Batch.new([], counters) end
    end
  end

  test "a binary that is none raises, one that is cut raises or has fewer entries" do
    %{binary: whole} = Batch.new(@entries, 2)

    for length <- 0..(byte_size(whole) - 1) do
      try do
        Enum.to_list(%Batch{binary: binary_part(whole, 0, length)})
      rescue
        ArgumentError -> :ok
      else
        entries -> assert entries == Enum.take(@entries, length(entries)) and length(entries) < 4
      end
    end

    for binary <- [
          "",
          "RSB\x02" <> binary_part(whole, 4, 4),
          :binary.replace(whole, <<8, 2>>, <<16, 2>>)
        ] do
      assert_raise ArgumentError, fn -> Enum.to_list(%Batch{binary: binary}) end
    end
  end
end
