defmodule ReadStates.Soak.Trend do
  @moduledoc "Whether figures that were taken at regular times grow."

  @doc """
  By how much the straight line that is closest to the figures (by least squares) rises from the first to the last, and
  the standard error of that: what goes up and down much says little about where it is going.

      iex> ReadStates.Soak.Trend.rise([1, 2, 3])
      {2.0, 0.0}
      iex> {rise, error} = ReadStates.Soak.Trend.rise([0, 8, 0, 8, 0])
      iex> {rise == 0, error > 4}
      {true, true}
  """
  def rise(figures) when length(figures) > 2 do
    count = length(figures)
    middle = (count - 1) / 2
    mean = Enum.sum(figures) / count
    points = Enum.with_index(figures, fn figure, at -> {at - middle, figure - mean} end)
    spread = Enum.sum(for {x, _y} <- points, do: x * x)
    slope = Enum.sum(for {x, y} <- points, do: x * y) / spread
    off = Enum.sum(for {x, y} <- points, do: (y - slope * x) ** 2)
    {slope * (count - 1), :math.sqrt(off / (count - 2) / spread) * (count - 1)}
  end
end
