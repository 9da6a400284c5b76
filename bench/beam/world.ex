defmodule ReadStates.Bench.World do
  @moduledoc false
  # The standard work: users with read states of channels, drawn at random; as bench/rust/src/world.rs.

  import Bitwise

  @enforce_keys [:users, :per_user, :shared_by, :channels]
  defstruct @enforce_keys

  # Coprime to every number of channels in use, so that a user has no channel twice.
  @stride 15_485_863
  # Users whose rows are made at once.
  @users_a_step 20
  # Of an operation that is refused until something has been committed.
  @pause_ms 1

  # So many read states, `per_user` of each user, with each channel shared by `shared_by` users on average.
  def new(states, per_user, shared_by) do
    users = max(div(states, per_user), 1)
    channels = max(div(users * per_user, shared_by), per_user)
    %__MODULE__{users: users, per_user: per_user, shared_by: shared_by, channels: channels}
  end

  def states(world), do: world.users * world.per_user

  def user(n), do: snowflake(n)

  # The id of the `i`th channel of the `n`th user.
  def channel(world, n, i) do
    first = (n * 0x9E37_79B9_7F4A_7C15 &&& 0xFFFF_FFFF_FFFF_FFFF) >>> 20
    snowflake(rem(first + i * @stride, world.channels))
  end

  # A channel that no user has to begin with.
  def announcements(world), do: snowflake(world.channels)

  # Newer than any before, so that no operation is one that changes nothing.
  def message, do: snowflake(System.unique_integer([:positive, :monotonic]))

  def draw_user(world), do: user(draw_number(world))

  # The ids of any user and of any channel of that user.
  def draw(world) do
    n = draw_number(world)
    {user(n), channel(world, n, :rand.uniform(world.per_user) - 1)}
  end

  defp draw_number(world), do: :rand.uniform(world.users) - 1

  # At most so many users, each once, in an order that has nothing to do with where they are in memory.
  def members(world, most) do
    for i <- 0..(min(world.users, most) - 1), do: user(rem(i * @stride, world.users))
  end

  # Calls `fun` with the read states of a few users at a time, as rows of ETS, until it has had them all.
  # What that leaves on the heap goes with the processes it is done in.
  def each_rows(world, fun) do
    0..(world.users - 1)//@users_a_step
    |> Task.async_stream(
      fn first ->
        last = min(first + @users_a_step, world.users) - 1
        fun.(for n <- first..last, i <- 0..(world.per_user - 1), do: row(world, n, i))
      end,
      ordered: false,
      timeout: :infinity
    )
    |> Stream.run()
  end

  # The rows as operations of an instance.
  def acks(rows) do
    for {{user, channel}, message, 0} <- rows, do: {:ack, user, channel, message}
  end

  # Acks every read state of an instance.
  def fill(world, instance) do
    each_rows(world, fn rows ->
      accepted(fn -> ReadStates.update(instance, acks(rows)) end)
    end)
  end

  # An operation that is refused takes until it is accepted.
  def accepted(write) do
    with {:error, :overloaded} <- write.() do
      Process.sleep(@pause_ms)
      accepted(write)
    end
  end

  # Of very many read states the store may have so much to put into order at a time that a commit takes longer than an instance
  # waits, and is tried again.
  def commit(instance, tries \\ 20) do
    with {:error, :store_unavailable} when tries > 1 <- ReadStates.commit(instance),
         do: commit(instance, tries - 1)
  end

  defp row(world, n, i), do: {{user(n), channel(world, n, i)}, message(), 0}

  # 60 bits, as those of today: bignums on the BEAM.
  defp snowflake(n), do: 1 <<< 59 ||| n <<< 22 ||| (n * 2_654_435_761 &&& 0x3F_FFFF)
end
