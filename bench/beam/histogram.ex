defmodule ReadStates.Bench.Histogram do
  @moduledoc false
  # How often something took how long, as an HDR histogram: of every power of two as many steps, so that each figure is
  # right to less than one percent. What it takes to record is the same for all, and nothing is left on a heap.

  import Bitwise

  # Steps between one power of two and the next.
  @bits 7
  @steps 1 <<< @bits
  # More nanoseconds than any run has.
  @most (1 <<< 42) - 1
  @size (42 - @bits + 1) * @steps

  def new, do: :counters.new(@size, [:atomics])

  def record(histogram, ns), do: :counters.add(histogram, index(min(max(ns, 0), @most), 0) + 1, 1)

  def count(histogram), do: Enum.sum(counts(histogram))

  # Nanoseconds that so large shares of all did not take longer than.
  def percentiles(histogram, shares) do
    sums = Enum.scan(counts(histogram), &+/2)
    total = List.last(sums)

    for share <- shares do
      rank = max(ceil(total * share), 1)
      highest(Enum.find_index(sums, &(&1 >= rank)) || 0)
    end
  end

  defp counts(histogram), do: for(i <- 1..@size, do: :counters.get(histogram, i))

  defp index(ns, shift) when ns < 2 * @steps, do: shift * @steps + ns
  defp index(ns, shift), do: index(ns >>> 1, shift + 1)

  # The longest time that has the same place.
  defp highest(index) when index < 2 * @steps, do: index

  defp highest(index) do
    shift = div(index, @steps) - 1
    ((index - shift * @steps + 1) <<< shift) - 1
  end
end
