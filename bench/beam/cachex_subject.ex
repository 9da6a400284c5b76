defmodule ReadStates.Bench.CachexSubject do
  @moduledoc false
  # Cachex with its policy for LRU: reads touch what they read, and what is over the limit is pruned now and then.
  # A read state is two entries, for a counter that is an entry is counted up by one operation on ETS; one entry
  # of both would have to be changed in a transaction, which takes three times as long. It has no index of users.

  @behaviour ReadStates.Bench.Subject

  require Cachex.Spec

  alias ReadStates.Bench.World

  @impl true
  def name, do: "Cachex"

  # What a touch leaves to the policy's process is done later than it is asked for.
  @impl true
  def most, do: 1_000_000

  @impl true
  def calls, do: [:ack, :increment, :get]

  @impl true
  def start(world) do
    {:ok, _started} = Application.ensure_all_started(:cachex)
    limit = {4 * World.states(world), [], []}

    {:ok, _pid} =
      Cachex.start_link(__MODULE__,
        hooks: [
          Cachex.Spec.hook(module: Cachex.Limit.Accessed),
          Cachex.Spec.hook(module: Cachex.Limit.Scheduled, args: limit)
        ]
      )

    World.each_rows(world, fn rows ->
      entries =
        for {{user, channel} = key, message, 0} <- rows,
            entry <- [{key, message}, {{user, channel, :mentions}, 0}],
            do: entry

      Cachex.put_many(__MODULE__, entries)
    end)

    __MODULE__
  end

  @impl true
  def bytes(cache) do
    [{"bytes/state", :ets.info(cache, :memory) * :erlang.system_info(:wordsize)}]
  end

  @impl true
  def runs(cache, :ack) do
    [
      {"",
       &Enum.each(&1, fn {:ack, user, channel, message} ->
         Cachex.put(cache, {user, channel}, message)
         Cachex.put(cache, {user, channel, :mentions}, 0)
       end)}
    ]
  end

  def runs(cache, :increment) do
    [
      {"",
       &Enum.each(&1, fn {:increment, user, channel, _message, by} ->
         Cachex.incr(cache, {user, channel, :mentions}, by)
       end)}
    ]
  end

  def runs(cache, :get) do
    [
      {"",
       &Enum.each(&1, fn {user, channel} ->
         Cachex.get(cache, {user, channel})
         Cachex.get(cache, {user, channel, :mentions})
       end)}
    ]
  end
end
