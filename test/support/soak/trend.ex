defmodule ReadStates.Soak.Trend do
  @moduledoc "Whether figures that were taken at regular times grow."

  @doc """
  By how much the straight line that is closest to the figures (by least squares) rises from the first to the last.

      iex> ReadStates.Soak.Trend.rise([1, 2, 3])
      2.0
      iex> ReadStates.Soak.Trend.rise([0, 8, 0, 8, 0])
      0.0
  """
  def rise(figures) when length(figures) > 1 do
    count = length(figures)
    middle = (count - 1) / 2
    mean = Enum.sum(figures) / count
    from_middle = Enum.with_index(figures, fn figure, at -> {at - middle, figure} end)
    along = Enum.sum(for {x, figure} <- from_middle, do: x * (figure - mean))
    slope = along / Enum.sum(for {x, _figure} <- from_middle, do: x * x)
    slope * (count - 1)
  end
end
