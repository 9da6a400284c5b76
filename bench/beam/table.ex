defmodule ReadStates.Bench.Table do
  @moduledoc false
  # Aligned rows: a name, and figures to its right.

  def row(name, cells, width \\ 14) do
    cells = Enum.map(cells, &String.pad_leading(&1, width))
    IO.puts(String.trim_trailing(String.pad_trailing(name, 40) <> Enum.join(cells)))
  end

  # How many times the value ReadStates has.
  def ratio(value, base), do: "x #{decimal(value / base)}"

  def decimal(number), do: :erlang.float_to_binary(number / 1, decimals: 1)

  # With a comma every three digits.
  def grouped(integer) do
    integer |> Integer.to_string() |> String.replace(~r/(?<=\d)(?=(\d{3})+$)/, ",")
  end
end
