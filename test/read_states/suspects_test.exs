defmodule ReadStates.SuspectsTest do
  use ExUnit.Case, async: true

  alias ReadStates.Suspects

  defp failed(suspects, times),
    do: Enum.reduce(1..times, suspects, fn _, it -> Suspects.failed_alone(it) end)

  test "whoever is loaded is no suspect any more, the others are" do
    suspects = Suspects.add(%Suspects{}, 1..3) |> Suspects.loaded([2, 4])
    assert for(user <- 1..4, Suspects.suspect?(suspects, user), do: user) == [1, 3]
  end

  test "it is the store if some fail alone and nothing succeeds between" do
    suspects = Suspects.add(%Suspects{}, 1..5) |> failed(2)
    refute Suspects.store_away?(suspects)
    suspects = suspects |> Suspects.loaded([9]) |> failed(2)
    refute Suspects.store_away?(suspects)
    assert Suspects.suspect?(suspects, 1)
    suspects = failed(suspects, 1)
    assert Suspects.store_away?(suspects)
    # And when it is back, nobody is to blame.
    suspects = Suspects.loaded(suspects, [9])
    refute Suspects.store_away?(suspects)
    refute Suspects.suspect?(suspects, 1)
  end

  test "there are not too many" do
    suspects = Suspects.add(%Suspects{}, 1..400)
    refute suspects |> Suspects.add(1_000..1_200) |> Suspects.suspect?(1_000)
    assert suspects |> Suspects.add(1_000..1_050) |> Suspects.suspect?(1_000)
  end
end
