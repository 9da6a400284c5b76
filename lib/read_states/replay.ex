defmodule ReadStates.Replay do
  @moduledoc false
  # Replays a trace through the public API the way a chat system would call it. For each line:
  #
  # 1. Connect. A sender who has not posted before, or not for 1,800 s, reads the channels in which he
  #    is mentioned: each is acked at its newest message.
  # 2. Post. The sender acks the channel at his own message.
  # 3. Mentions. The mention count of each mentioned user is incremented at this message; `*` is
  #    everybody who has posted or been mentioned in the channel before.

  alias ReadStates.ReadState

  @idle_seconds 1_800
  @counter :mention_count

  @typedoc "Name and value, in the order in which they are printed."
  @type figures :: [{atom, non_neg_integer | String.t()}]
  @type operation :: :ack | :increment | :list

  @doc """
  Replays `lines` (see `ReadStates.Trace.stream!/2`) on the instance `name`, which is empty, then reads every
  state of every user of the trace.

  The figures are `messages`, `connects`, `acks` and `mentions` (calls, those that changed nothing
  included), and those of `read_back/2`. `:measure` is called with the operation and its time in
  nanoseconds after each call during the replay. Raises on the first error an operation returns.
  """
  @spec run(atom, Enumerable.t(), measure: (operation, non_neg_integer -> any)) :: figures
  def run(name, lines, opts \\ []) do
    replay = %{
      name: name,
      measure: Keyword.get(opts, :measure),
      messages: 0,
      connects: 0,
      acks: 0,
      mentions: 0,
      # channel => its newest message
      newest: %{},
      # sender => the time of the last post
      posted: %{},
      # channel => who posted or was mentioned there
      participants: %{}
    }

    replay = Enum.reduce(lines, replay, &line/2)

    Enum.map([:messages, :connects, :acks, :mentions], &{&1, Map.fetch!(replay, &1)}) ++
      figures(name, users(replay.participants), map_size(replay.newest))
  end

  @doc """
  Reads back, without replaying, what the instance `name` has of the users in `lines`.

  The figures are `users`, `channels`, `states`, `unread_mentions` and `sha256`, the digest of one line
  `user channel last_message_id mention_count` a read state in ascending order of user and channel.
  """
  @spec read_back(atom, Enumerable.t()) :: figures
  def read_back(name, lines) do
    participants = Enum.reduce(lines, %{}, &participate(&2, &1))
    figures(name, users(participants), map_size(participants))
  end

  defp line({message, seconds, channel, sender, mentioned} = line, replay) do
    replay
    |> connect(sender, seconds)
    |> post(sender, channel, message)
    |> mention(channel, message, mentioned(replay, mentioned, channel, sender))
    |> Map.update!(:participants, &participate(&1, line))
  end

  defp connect(%{posted: posted} = replay, sender, seconds) do
    replay = %{replay | posted: Map.put(posted, sender, seconds)}

    case posted do
      %{^sender => before} when seconds - before < @idle_seconds -> replay
      _ -> read_mentions(%{replay | connects: replay.connects + 1}, sender)
    end
  end

  defp read_mentions(replay, user) do
    {:ok, unread} =
      call(replay, :list, fn -> ReadStates.list(replay.name, user, nonzero: @counter) end)

    Enum.reduce(unread, replay, fn %ReadState{channel: channel}, replay ->
      ack(replay, user, channel, Map.fetch!(replay.newest, channel))
    end)
  end

  defp post(replay, sender, channel, message) do
    %{replay | messages: replay.messages + 1, newest: Map.put(replay.newest, channel, message)}
    |> ack(sender, channel, message)
  end

  defp ack(replay, user, channel, message) do
    :ok = call(replay, :ack, fn -> ReadStates.ack(replay.name, user, channel, message) end)
    %{replay | acks: replay.acks + 1}
  end

  defp mention(replay, _channel, _message, []), do: replay

  defp mention(replay, channel, message, users) do
    :ok =
      call(replay, :increment, fn ->
        ReadStates.increment(replay.name, users, channel, message)
      end)

    %{replay | mentions: replay.mentions + length(users)}
  end

  defp mentioned(replay, :everybody, channel, sender) do
    replay.participants
    |> Map.get(channel, MapSet.new())
    |> MapSet.delete(sender)
    |> Enum.sort()
  end

  defp mentioned(_replay, users, _channel, _sender), do: users

  defp participate(participants, {_message, _seconds, channel, sender, mentioned}) do
    users = if mentioned == :everybody, do: [sender], else: [sender | mentioned]
    known = Map.get(participants, channel, MapSet.new())
    Map.put(participants, channel, Enum.into(users, known))
  end

  defp call(%{measure: nil}, operation, fun), do: accepted(fun.(), operation)

  defp call(%{measure: measure}, operation, fun) do
    started = System.monotonic_time()
    result = fun.()
    native = System.monotonic_time() - started
    measure.(operation, System.convert_time_unit(native, :native, :nanosecond))
    accepted(result, operation)
  end

  defp accepted({:error, reason}, operation),
    do: raise("ReadStates.#{operation} returned #{inspect({:error, reason})}")

  defp accepted(result, _operation), do: result

  defp users(participants) do
    for {_channel, users} <- participants, user <- users, uniq: true, do: user
  end

  defp figures(name, users, channels) do
    {states, unread, digest} =
      users
      |> Enum.sort()
      |> Enum.reduce({0, 0, :crypto.hash_init(:sha256)}, fn user, {states, unread, digest} ->
        {:ok, list} = accepted(ReadStates.list(name, user), :list)
        counts = for %ReadState{counters: %{@counter => count}} <- list, do: count

        {states + length(list), unread + Enum.sum(counts),
         :crypto.hash_update(digest, digest_lines(user, list))}
      end)

    [
      users: length(users),
      channels: channels,
      states: states,
      unread_mentions: unread,
      sha256: digest |> :crypto.hash_final() |> Base.encode16(case: :lower)
    ]
  end

  defp digest_lines(user, list) do
    for %ReadState{kind: 0, channel: channel} = state <- list do
      "#{user} #{channel} #{state.last_message_id} #{state.counters[@counter]}\n"
    end
  end
end
