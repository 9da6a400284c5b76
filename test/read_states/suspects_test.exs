defmodule ReadStates.SuspectsTest do
  use ExUnit.Case, async: true

  alias ReadStates.Suspects

  defp failed(suspects, users),
    do: Enum.reduce(users, suspects, &Suspects.failed_alone(&2, &1))

  defp suspected(suspects, users), do: Enum.filter(users, &Suspects.suspect?(suspects, &1))

  test "whoever is loaded is no suspect any more, the others are" do
    suspects = Suspects.add(%Suspects{}, 1..3) |> Suspects.loaded([2, 4])
    assert suspected(suspects, 1..4) == [1, 3]
  end

  test "it is the store if some fail alone and nothing succeeds between" do
    suspects = Suspects.add(%Suspects{}, 1..5) |> failed([1, 2])
    refute Suspects.store_away?(suspects)
    suspects = suspects |> Suspects.loaded([9]) |> failed([1, 2])
    refute Suspects.store_away?(suspects)
    assert suspected(suspects, 1..6) == [1, 2, 3, 4, 5]
    suspects = failed(suspects, [3, 4])
    assert Suspects.store_away?(suspects)
    # And when it is back, nobody is to blame but perhaps those.
    suspects = Suspects.loaded(suspects, [9, 2])
    refute Suspects.store_away?(suspects)
    assert suspected(suspects, 1..9) == [1, 3]
  end

  test "who fails again and again is not the store" do
    suspects = Suspects.add(%Suspects{}, [1]) |> failed(List.duplicate(1, 10))
    refute Suspects.store_away?(suspects)
    assert Suspects.suspect?(suspects, 1)
  end

  test "there are not too many: the new ones take the place of those of before" do
    suspects = Suspects.add(%Suspects{}, 1..400)
    assert suspects |> Suspects.add(1_001..1_100) |> suspected([1, 1_001]) == [1, 1_001]
    assert suspects |> Suspects.add(1_001..1_200) |> suspected([1, 1_001]) == [1_001]
  end
end
