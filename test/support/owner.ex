defmodule ReadStates.Owner do
  @moduledoc """
  An instance that writes to one user all the time, for tests in which another VM does so too. What it commits is in a record, see
  `ReadStates.RecordingStore`.

  Of the read states it writes, the parity of the message tells which owner it was, and the counter is that of the message: so what
  two writes have been blended into is seen.
  """

  alias ReadStates.RecordingStore

  @doc """
  Writes to channels 1 to `channels` of `user` until there is a line on the standard input. All of it is committed when it returns.
  """
  def run(store, record, user, channels, parity) do
    store = {RecordingStore, store: store, record: record}
    {:ok, instance} = ReadStates.start_link(name: __MODULE__, store: store, commit_after: 0)
    write(user, channels, parity, Task.async(fn -> IO.gets("") end))
    Supervisor.stop(instance, :normal, :infinity)
  end

  defp write(user, channels, parity, stop) do
    for channel <- 1..channels do
      message = 2 * System.unique_integer([:positive, :monotonic]) + parity
      :ok = ReadStates.put(__MODULE__, user, channel, message, counters(message))
    end

    :ok = ReadStates.commit(__MODULE__)
    if Task.yield(stop, 0) == nil, do: write(user, channels, parity, stop)
  end

  @doc "The counters of a read state with this message."
  def counters(message), do: %{mention_count: rem(message, 1_000)}
end
