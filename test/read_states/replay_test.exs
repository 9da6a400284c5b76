defmodule ReadStates.ReplayTest do
  use ExUnit.Case, async: true

  alias ReadStates.Replay

  setup %{test: name} do
    start_supervised!({ReadStates, name: name, store: ReadStates.Store.Memory})
    %{name: name}
  end

  # {channel, last message, mentions} of a user.
  defp states(name, user) do
    {:ok, states} = ReadStates.list(name, user)
    for state <- states, do: {state.channel, state.last_message_id, state.counters.mention_count}
  end

  test "the sender acks at his message and the mentioned are counted", %{name: name} do
    figures = Replay.run(name, [{10, 0, 7, 1, [2, 3]}, {11, 1, 7, 1, [2]}])

    assert states(name, 1) == [{7, 11, 0}]
    assert states(name, 2) == [{7, 0, 2}]
    assert states(name, 3) == [{7, 0, 1}]

    assert Keyword.delete(figures, :sha256) ==
             [messages: 2, connects: 1, acks: 2, mentions: 3, users: 3, channels: 1] ++
               [states: 3, unread_mentions: 3]
  end

  test "the first post acks channels with mentions at their newest message", %{name: name} do
    figures =
      Replay.run(name, [
        {10, 0, 7, 1, [2]},
        {11, 1, 7, 1, []},
        {12, 2, 8, 1, [3]},
        {13, 3, 9, 2, []}
      ])

    assert states(name, 2) == [{7, 11, 0}, {9, 13, 0}]
    assert states(name, 3) == [{8, 0, 1}]
    assert {figures[:connects], figures[:acks]} == {2, 5}
  end

  test "the line's own message is not yet the newest at the connect", %{name: name} do
    figures = Replay.run(name, [{10, 0, 7, 1, [2]}, {11, 1, 7, 2, []}])

    assert states(name, 2) == [{7, 11, 0}]
    assert figures[:acks] == 3
  end

  test "no connect less than 1,800 s after the last post", %{name: name} do
    figures = Replay.run(name, [{10, 0, 7, 1, []}, {11, 5, 8, 2, [1]}, {12, 1_799, 7, 1, []}])

    assert states(name, 1) == [{7, 12, 0}, {8, 0, 1}]
    assert figures[:connects] == 2
  end

  test "a connect 1,800 s after the last post", %{name: name} do
    figures = Replay.run(name, [{10, 0, 7, 1, []}, {11, 5, 8, 2, [1]}, {12, 1_800, 7, 1, []}])

    assert states(name, 1) == [{7, 12, 0}, {8, 11, 0}]
    assert figures[:connects] == 3
  end

  test "* mentions who has posted or been mentioned in the channel before, without the sender",
       %{name: name} do
    figures =
      Replay.run(name, [
        {10, 0, 7, 1, [5]},
        {11, 1, 7, 2, []},
        {12, 2, 8, 3, []},
        {13, 3, 7, 2, :everybody},
        {14, 4, 9, 4, :everybody}
      ])

    assert states(name, 1) == [{7, 10, 1}]
    assert states(name, 2) == [{7, 13, 0}]
    assert states(name, 3) == [{8, 12, 0}]
    assert states(name, 5) == [{7, 0, 2}]
    assert figures[:mentions] == 3
  end

  test "the digest is over the states in ascending order of user and channel", %{name: name} do
    largest = 0xFFFF_FFFF_FFFF_FFFF
    lines = [{10, 0, largest, 9, [1]}, {11, 0, 7, 9, []}, {largest, 0, 1, largest, []}]
    text = "1 #{largest} 0 1\n9 7 11 0\n9 #{largest} 10 0\n#{largest} 1 #{largest} 0\n"

    figures = Replay.run(name, lines)

    assert figures[:sha256] == Base.encode16(:crypto.hash(:sha256, text), case: :lower)

    assert Replay.read_back(name, lines) ==
             Keyword.drop(figures, [:messages, :connects, :acks, :mentions])
  end

  test "measures each call", %{name: name} do
    test = self()
    measure = fn operation, nanoseconds -> send(test, {operation, nanoseconds}) end
    Replay.run(name, [{10, 0, 7, 1, [2, 3]}, {11, 0, 7, 1, []}], measure: measure)

    for expected <- [:list, :ack, :increment, :ack] do
      assert_receive {^expected, nanoseconds} when is_integer(nanoseconds) and nanoseconds >= 0
    end

    refute_received _
  end
end
