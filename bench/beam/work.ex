defmodule ReadStates.Bench.Work do
  @moduledoc false
  # What is measured: a call, how often a run makes it, and with which arguments.

  alias ReadStates.Bench.World

  # So many that what one subject leaves in the processor's caches is not what the next one's figure is about.
  @run 10_000
  # Of a call that answers with many read states.
  @reads 1_000
  # Operations of a call that takes many.
  @batch 1_000
  @everybody 100_000

  @enforce_keys [:name, :call, :draw]
  # `operations` is how many operations a run has, over which its time is divided.
  defstruct @enforce_keys ++ [operations: @run]

  # `draw` makes the arguments of a run for a world.
  def all(%World{per_user: per_user} = world) do
    [
      %__MODULE__{name: "ack", call: :ack, draw: &acks/1},
      %__MODULE__{name: "increment", call: :increment, draw: &increments/1},
      %__MODULE__{name: "get", call: :get, draw: &keys/1},
      %__MODULE__{name: "update of 1,000", call: :update, draw: &mixed/1},
      %__MODULE__{
        name: "list of #{per_user}",
        call: :list,
        draw: &users(&1, @reads),
        operations: @reads
      },
      %__MODULE__{name: "total", call: :total, draw: &users(&1, @reads), operations: @reads},
      %__MODULE__{name: "one hot user", call: :ack, draw: &acks_of_one_user/1},
      %__MODULE__{name: "mention of 1,000 users", call: :mention, draw: &mention/1},
      %__MODULE__{
        name: "one hot channel",
        call: :mention,
        draw: &mention_of_everybody/1,
        operations: min(world.users, @everybody)
      }
    ]
  end

  # Arguments of :mention which give every user the channel of the others: one message to each.
  def announcement(world), do: mentions(world, World.members(world, world.users))

  defp keys(world), do: for(_ <- 1..@run, do: World.draw(world))
  defp users(world, count), do: for(_ <- 1..count, do: World.draw_user(world))
  defp acks(world), do: for(key <- keys(world), do: ack(key))
  defp increments(world), do: for(key <- keys(world), do: increment(key))

  # Half of each, as where every other message read was one with a mention.
  defp mixed(world) do
    operations =
      for {key, i} <- Enum.with_index(keys(world)),
          do: if(rem(i, 2) == 0, do: ack(key), else: increment(key))

    Enum.chunk_every(operations, @batch)
  end

  defp acks_of_one_user(world) do
    for _ <- 1..@run do
      i = :rand.uniform(world.per_user) - 1
      ack({World.user(0), World.channel(world, 0, i)})
    end
  end

  defp mention(world), do: mentions(world, users(world, @run))
  defp mention_of_everybody(world), do: mentions(world, World.members(world, @everybody))

  defp mentions(world, users) do
    message = World.message()
    for some <- Enum.chunk_every(users, @batch), do: {some, World.announcements(world), message}
  end

  defp ack({user, channel}), do: {:ack, user, channel, World.message()}
  defp increment({user, channel}), do: {:increment, user, channel, World.message(), 1}
end
