defmodule ReadStates.Bench.MapServerSubject do
  @moduledoc false
  # A GenServer with a map and an LRU list of users, with a call an operation, as an application would make it.

  @behaviour ReadStates.Bench.Subject

  alias ReadStates.Bench.{MapServer, World}

  @impl true
  def name, do: "GenServer"

  # A collection of all its garbage copies everything it has, and stops everybody for as long.
  @impl true
  def most, do: 1_000_000

  @impl true
  def calls, do: [:ack, :increment, :update, :get, :mention, :list, :total]

  @impl true
  def start(world) do
    {:ok, server} = MapServer.start_link(2 * World.states(world))

    World.each_rows(world, fn rows ->
      acks = for {{user, channel}, message, 0} <- rows, do: {:ack, user, channel, message}
      :ok = MapServer.update(server, acks)
    end)

    server
  end

  @impl true
  def bytes(server) do
    :erlang.garbage_collect(server)
    {:memory, bytes} = Process.info(server, :memory)
    [{"bytes/state", bytes}]
  end

  @impl true
  def runs(server, call) when call in [:ack, :increment] do
    [{"", &Enum.each(&1, fn operation -> MapServer.apply(server, operation) end)}]
  end

  def runs(server, :update),
    do: [{"", &Enum.each(&1, fn operations -> MapServer.update(server, operations) end)}]

  def runs(server, :get) do
    [{"", &Enum.each(&1, fn {user, channel} -> MapServer.get(server, user, channel) end)}]
  end

  def runs(server, :mention) do
    [
      {"",
       &Enum.each(&1, fn {users, channel, message} ->
         MapServer.mention(server, users, channel, message)
       end)}
    ]
  end

  def runs(server, :list), do: [{"", &Enum.each(&1, fn user -> MapServer.list(server, user) end)}]

  def runs(server, :total),
    do: [{"", &Enum.each(&1, fn user -> MapServer.total(server, user) end)}]
end
