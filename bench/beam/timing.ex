defmodule ReadStates.Bench.Timing do
  @moduledoc false

  # Seconds that a call takes.
  def timed(fun) do
    started = System.monotonic_time(:nanosecond)
    fun.()
    (System.monotonic_time(:nanosecond) - started) / 1_000_000_000
  end

  def median(values), do: Enum.at(Enum.sort(values), div(length(values), 2))
end
