defmodule ReadStates.CrashTest do
  use ExUnit.Case, async: true

  alias ReadStates.Crash

  @moduletag :tmp_dir
  @moduletag timeout: 600_000

  test "nothing acknowledged is lost by kill -9, nothing is counted twice, and batches are whole",
       %{tmp_dir: directory} do
    seed = :erlang.phash2(make_ref())
    operations = Crash.run(directory, 20, seed)
    assert operations > 1_000, "seed #{seed}"
  end

  test "nor in the middle of a commit, of a change of segments, of a recovery or of a stop, each of which is hit",
       %{tmp_dir: directory} do
    seed = :erlang.phash2(make_ref())
    operations = Crash.run_aimed(directory, 2, seed)
    assert operations > 1_000, "seed #{seed}"
  end
end
