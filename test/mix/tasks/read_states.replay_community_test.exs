# The whole community trace; one module a store, so that they run side by side.

defmodule ReadStates.CommunityReplay do
  import ExUnit.CaptureIO

  @trace Path.expand("../../fixtures/community-2018-2021.tsv.gz", __DIR__)

  @replayed %{
    "messages" => "352520",
    "connects" => "92049",
    "acks" => "373854",
    "mentions" => "34424"
  }

  @stored %{
    "users" => "1534",
    "channels" => "15370",
    "states" => "65131",
    "unread_mentions" => "647",
    "sha256" => "c5a77799343dc031e6f5e2476c19ee47f1a6f6279ed84515daf5dd73a4c10eea"
  }

  def stored, do: @stored
  def replayed, do: Map.merge(@replayed, @stored)

  @doc "The figures that the task prints: what the trace must lead to, and the others."
  def run(args) do
    capture_io(fn -> Mix.Tasks.ReadStates.Replay.run([@trace | args]) end)
    |> String.split("\n", trim: true)
    |> Map.new(&(&1 |> String.split(" ") |> List.to_tuple()))
    |> Map.split(Map.keys(replayed()))
  end
end

defmodule ReadStates.CommunityReplay.MemoryTest do
  use ExUnit.Case, async: true

  alias ReadStates.CommunityReplay

  @moduletag timeout: 600_000

  test "on the Memory store" do
    {figures, _others} = CommunityReplay.run(["--store", "memory"])
    assert figures == CommunityReplay.replayed()
  end
end

defmodule ReadStates.CommunityReplay.LocalTest do
  use ExUnit.Case, async: true

  alias ReadStates.CommunityReplay

  @moduletag timeout: 600_000

  @tag :tmp_dir
  test "on the Local store, and after a stop and a fresh start", %{tmp_dir: tmp_dir} do
    {figures, _others} = CommunityReplay.run(["--path", tmp_dir])
    assert figures == CommunityReplay.replayed()

    {figures, %{"loads" => loads}} = CommunityReplay.run(["--path", tmp_dir, "--verify"])
    assert figures == CommunityReplay.stored()
    assert loads == "1534"
  end
end

defmodule ReadStates.CommunityReplay.CapacityTest do
  use ExUnit.Case, async: true

  alias ReadStates.CommunityReplay

  @moduletag timeout: 600_000

  @tag :tmp_dir
  test "with a capacity so small that users come and go", %{tmp_dir: tmp_dir} do
    {figures, others} = CommunityReplay.run(["--path", tmp_dir, "--capacity", "2000"])
    assert figures == CommunityReplay.replayed()

    # Each of the 1,534 users is loaded once anyway; the others are loads of users who were evicted.
    assert String.to_integer(others["evictions"]) > 0
    assert String.to_integer(others["loads"]) > 1_534

    assert {stored, _others} = CommunityReplay.run(["--path", tmp_dir, "--verify"])
    assert stored == CommunityReplay.stored()
  end
end
