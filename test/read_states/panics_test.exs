defmodule ReadStates.PanicsTest do
  use ExUnit.Case, async: true

  # At each place by itself: native/engine/tests/panics.rs and native/journal/tests/panics.rs. Here it is seen from the VM.

  @moduletag :tmp_dir
  @moduletag :fail_points
  @moduletag timeout: 600_000

  test "a panic in the engine is an error of the call, and the VM and the instance go on with what is right",
       %{tmp_dir: directory} do
    raised = ReadStates.Panics.run(directory)
    assert Enum.all?(raised, fn {_function, times} -> times > 0 end), inspect(raised)
  end

  test "an instance whose processes die of whatever they do lives on, and goes on when they do not any more",
       %{tmp_dir: directory} do
    {seconds, started} = ReadStates.Panics.run_through(directory)

    # They did die of it, and none of them at once again.
    for {_process, times} <- started do
      assert times in 3..(seconds + 3), inspect({seconds, started})
    end
  end
end
