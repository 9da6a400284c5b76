defmodule ReadStates.Support.SoakTest do
  use ExUnit.Case, async: true

  alias ReadStates.Soak
  alias ReadStates.Soak.{Sample, Trend}

  doctest Trend

  @moduletag timeout: 300_000

  @tag :tmp_dir
  test "a short one has what was written in the end, with a line for each sample", %{tmp_dir: dir} do
    Soak.run(dir, 4, 1, &send(self(), {:said, &1}), 2_000)
    lines = said()
    assert Enum.count(lines, &(&1 =~ ~r/^ +[1-4] /)) == 4
    # Also after the restart.
    assert [found, found] = for(line <- lines, line =~ "have what was written", do: line)
    assert found =~ ~r/^2000 users .* [1-9]\d+ mentions/
  end

  # Figures that go up and down, and one of them also from once to twice what it was.
  defp samples(grows \\ nil) do
    for n <- 0..60 do
      Map.new(Sample.figures(), fn figure ->
        usual = if figure in [:processes, :files, :mailbox, :atoms], do: 200, else: 200_000_000
        grown = if figure == grows, do: n / 60, else: 0
        {figure, usual * (1 + rem(n * 7, 11) / 200 + grown)}
      end)
    end
  end

  test "figures that go up and down are flat" do
    assert Soak.flat?(samples(), &send(self(), {:said, &1}))
    refute Enum.any?(said(), &(&1 =~ "GROWS"))
  end

  for figure <- Sample.figures() do
    test "it says so when #{figure} grows" do
      refute Soak.flat?(samples(unquote(figure)), &send(self(), {:said, &1}))
      assert [line] = Enum.filter(said(), &(&1 =~ "GROWS"))
      assert line =~ ~r/\b#{unquote(figure)}\b/
    end
  end

  defp said do
    receive do
      {:said, line} -> [line | said()]
    after
      0 -> []
    end
  end
end
