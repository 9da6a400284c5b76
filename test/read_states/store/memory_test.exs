defmodule ReadStates.Store.MemoryTest do
  use ExUnit.Case, async: true

  alias ReadStates.Store.Memory

  use ReadStates.StoreContract, store: Memory, opts: fn _context -> [data: Memory.new()] end

  doctest Memory

  @context %{name: __MODULE__, counters: [:mention_count]}

  test "without data it begins empty every time" do
    {:ok, store, 0} = Memory.open([], @context)
    :ok = commit(store, [row(1, 2, 3)])
    {:ok, other, 0} = Memory.open([], @context)
    assert scan(other) == []
    assert scan(store) == [row(1, 2, 3)]
  end

  test "several have the same data open, and the closing of one leaves the others" do
    data = Memory.new()
    {:ok, one, 0} = Memory.open([data: data], @context)
    {:ok, other, 0} = Memory.open([data: data], @context)
    :ok = commit(one, [row(1, 2, 3)])
    :ok = Memory.close(one)
    assert scan(other) == [row(1, 2, 3)]
    assert commit(one, []) == {:error, :closed}
  end

  test "wrong options are named" do
    assert_raise ArgumentError, ~r/^data must be/, fn -> Memory.open([data: :new], @context) end
    assert_raise ArgumentError, ~r/:path/, fn -> Memory.open([path: "x"], @context) end
  end
end
