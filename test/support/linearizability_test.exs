defmodule ReadStates.Support.LinearizabilityTest do
  use ExUnit.Case, async: true

  alias ReadStates.Linearizability

  # A register that holds 0 to begin with.
  defp step(_value, {:write, new}), do: new
  defp step(value, {:read, value}), do: value
  defp step(_value, {:read, _other}), do: nil
  defp step(value, {:add, by}), do: value + by

  defp check(calls), do: Linearizability.check(Enum.map(calls, &call/1), 0, &step/2)

  defp call({start, finish, step}) when is_tuple(step), do: call({start, finish, [step]})
  defp call({start, finish, steps}), do: %{start: start, end: finish, steps: steps}

  for {what, calls} <- [
        {"nothing", []},
        {"one call after the other", [{1, 2, {:write, 1}}, {3, 4, {:read, 1}}]},
        {"a read that sees a write that is under way", [{1, 4, {:write, 1}}, {2, 3, {:read, 1}}]},
        {"a read that does not see it", [{1, 4, {:write, 1}}, {2, 3, {:read, 0}}]},
        {"a read that sees the first of two writes at once",
         [{1, 4, {:write, 1}}, {2, 5, {:write, 2}}, {6, 7, {:read, 1}}]},
        {"three writes at once, read in the order of their ends turned round",
         [
           {1, 6, {:write, 1}},
           {2, 5, {:write, 2}},
           {3, 4, {:write, 3}},
           {7, 8, {:read, 1}},
           {9, 10, {:read, 1}}
         ]},
        {"a write that never returned, and is seen late",
         [{1, nil, {:write, 1}}, {2, 3, {:read, 0}}, {4, 5, {:read, 1}}]},
        {"a write that never returned, and is not seen",
         [{1, nil, {:write, 1}}, {2, 3, {:read, 0}}]},
        {"a batch that is seen in part",
         [{1, 6, [{:write, 1}, {:write, 2}]}, {2, 3, {:read, 1}}, {4, 5, {:read, 2}}]},
        {"a batch with another's write in between",
         [{1, 4, [{:write, 1}, {:add, 1}]}, {2, 3, {:write, 5}}, {5, 6, {:read, 6}}]}
      ] do
    test "#{what} can be explained" do
      assert check(unquote(Macro.escape(calls))) == :ok
    end
  end

  for {what, calls} <- [
        {"a read that misses a write which had returned",
         [{1, 2, {:write, 1}}, {3, 4, {:read, 0}}]},
        {"a value that nobody wrote", [{1, 4, {:write, 1}}, {2, 3, {:read, 2}}]},
        {"two reads one after the other that see a write, and then do not",
         [{1, 6, {:write, 1}}, {2, 3, {:read, 1}}, {4, 5, {:read, 0}}]},
        {"two who see two writes in different orders",
         [
           {1, 12, {:write, 1}},
           {2, 11, {:write, 2}},
           {3, 6, {:read, 1}},
           {4, 5, {:read, 2}},
           {7, 10, {:read, 2}},
           {8, 9, {:read, 1}},
           {13, 14, {:read, 1}},
           {15, 16, {:read, 2}}
         ]},
        {"an addition that counted twice", [{1, 2, {:add, 1}}, {3, 4, {:read, 2}}]},
        {"an addition that never returned and counted twice",
         [{1, nil, {:add, 1}}, {2, 3, {:read, 1}}, {4, 5, {:read, 2}}]},
        {"a write that never returned and was seen before it began",
         [{1, 2, {:read, 1}}, {3, nil, {:write, 1}}]},
        {"a write that never returned, is seen and is not seen any more",
         [{1, nil, {:write, 1}}, {2, 3, {:read, 1}}, {4, 5, {:read, 0}}]},
        {"a batch in the wrong order",
         [{1, 6, [{:write, 1}, {:write, 2}]}, {2, 3, {:read, 2}}, {4, 5, {:read, 1}}]},
        {"a batch of which half is done when it has returned",
         [{1, 2, [{:write, 1}, {:add, 1}]}, {3, 4, {:read, 1}}]}
      ] do
    test "#{what} cannot be explained" do
      assert {:error, {_steps, _state}} = check(unquote(Macro.escape(calls)))
    end
  end

  test "of what cannot be explained it shows how far one gets" do
    assert check([{1, 2, {:write, 1}}, {3, 4, {:read, 1}}, {5, 6, {:read, 0}}]) ==
             {:error, {[{:write, 1}, {:read, 1}], 1}}
  end

  test "it gives up rather than search for ever" do
    # Powers of two, so that each set of them has a state of its own.
    additions = for n <- 1..20, do: call({n, 100 + n, {:add, 2 ** n}})
    calls = [call({200, 201, {:read, 1}}) | additions]
    assert Linearizability.check(calls, 0, &step/2, 10_000) == :undecided
  end

  test "of short histories it says the same as trying all orders" do
    :rand.seed(:exsss, ExUnit.configuration()[:seed])

    verdicts =
      for _ <- 1..2_000 do
        calls = random_calls()
        verdict = Linearizability.check(calls, 0, &step/2) == :ok
        assert verdict == explained?(calls, 0), inspect(calls)
        verdict
      end

    assert Enum.count(verdicts, & &1) in 200..1_800
  end

  # One step each.
  defp random_calls do
    times = Enum.shuffle(1..10)

    for [one, other] <- Enum.chunk_every(times, 2) do
      step =
        Enum.random([
          {:write, :rand.uniform(2)},
          {:add, 1},
          {:read, :rand.uniform(4) - 1},
          {:read, :rand.uniform(3) - 1}
        ])

      call({min(one, other), Enum.random([max(one, other), max(one, other), nil]), step})
    end
  end

  # In any order in which nobody comes before one who had returned when he began.
  defp explained?(calls, value) do
    Enum.all?(calls, &(&1.end == nil)) or
      Enum.any?(calls, fn %{start: start, steps: [step]} = call ->
        rest = List.delete(calls, call)
        after_it = step(value, step)

        after_it && Enum.all?(rest, &(&1.end == nil or &1.end > start)) &&
          explained?(rest, after_it)
      end)
  end
end
