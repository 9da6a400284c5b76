defmodule ReadStates.Backoff do
  @moduledoc false
  # How long to wait before the next try: twice as long after each failure, with jitter, so that
  # those who failed together do not come back together.

  @first 100
  @most 5_000

  defstruct failures: 0

  def failed(%__MODULE__{failures: failures}) do
    longest = min(@most, @first * Integer.pow(2, min(failures, 10)))
    delay = div(longest, 2) + :rand.uniform(div(longest, 2))
    {delay, %__MODULE__{failures: failures + 1}}
  end

  def succeeded(%__MODULE__{}), do: %__MODULE__{}
end
