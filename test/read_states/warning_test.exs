defmodule ReadStates.WarningTest do
  use ExUnit.Case, async: true

  alias ReadStates.Warning

  test "one warning an outage, and none soon after another" do
    assert {true, warning} = Warning.failed(%Warning{})
    assert {false, ^warning} = Warning.failed(warning)
    # The next outage, too soon, and then late enough.
    over = Warning.over(warning)
    assert {false, ^over} = Warning.failed(over)
    assert {true, _warning} = Warning.failed(%{over | at: over.at - 10_000})
    # As long as it lasts there is no other, however long that is.
    assert {false, _warning} = Warning.failed(%{warning | at: warning.at - 10_000})
  end
end
