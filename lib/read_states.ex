defmodule ReadStates do
  @moduledoc """
  Chat read states: for each user and channel the message read last and a few counters, such as
  unread mentions, in memory outside the BEAM heap and committed to a store.

      children = [
        {ReadStates, name: MyApp.ReadStates, store: {ReadStates.Store.Local, path: "data/read_states"}}
      ]

  ## Words

    * *User*, *channel* and *message* are integers from 0 to 2^64 - 1. Message ids of a channel grow
      with time (snowflakes, `bigserial`). What is not a channel but is read like one (pins, events, a
      notification centre) is `{kind, id}` with `kind` from 1 to 255; a plain integer is kind 0.
    * A *read state* is the message read last, and one to four counters of 32 bits.
    * A user is *resident* when their read states are in memory. They are *loaded* from the store when
      they are needed, and *evicted* when there is no room.
    * A change is *dirty* until it is *committed* to the store.

  ## What waits and what does not

  A write returns at once, whatever the store does: an operation on a user who is not resident is
  kept and merged, with the same meaning, when the user is loaded. A read of a user who is not resident
  waits for one load. A read sees every operation that returned before it.

  ## Errors

  An argument that is not possible raises `ArgumentError`, which names it, before anything has
  changed. What goes wrong outside is returned:

  | | returned by | meaning |
  | --- | --- | --- |
  | `{:error, :overloaded}` | writes | the memory for uncommitted changes, or the journal, is full; nothing was accepted |
  | `{:error, :disk_full}` | writes | there is no room on the disk for the journal; nothing was accepted |
  | `{:error, :journal_failed}` | writes | the journal's files could not be made; nothing was accepted. The log says why |
  | `{:error, :journal_failed}` | writes, with `sync_every: 0` | carried out, but not known to be on disk: an increment that is repeated counts twice. The log says why |
  | `{:error, :journal_failed}` | `commit/1` | the journal, which has to be on disk before the store, could not be written or synced, or what it has of an earlier life could not be read again; both are tried again. The log says why |
  | `{:error, :overloaded}` | reads, `load/2` | 100,000 users are waiting to be loaded already |
  | `{:error, :closed}` | writes, `commit/1` | the instance is shutting down |
  | `{:error, :closed}` | reads, `load/2` | the instance stopped while the load was under way |
  | `{:error, :timeout}` | reads, `load/2` | the load took longer than `:load_timeout`, or the store has given it up |
  | `{:error, :store_unavailable}` | reads, `load/2`, `commit/1` | the store has failed; the log says how |

  A name that is not that of a running instance raises `ArgumentError` too, also for the moment in which its supervisor is restarted.

  `ReadStates.Stats` and `ReadStates.Telemetry` have the figures, and the guides [Getting started](getting_started.md),
  [What can be lost](durability.md) and [Shutdown](shutdown.md) the rest.
  """

  alias ReadStates.{Argument, Flush, Instance, Loader, Native, Options, ReadState, Stats, Syncer}

  @typedoc "A user, a channel or a message: an integer from 0 to 2^64 - 1."
  @type id :: 0..0xFFFF_FFFF_FFFF_FFFF

  @typedoc "A channel, or what is read like one: `id` is the same as `{0, id}`."
  @type channel :: id() | {0..255, id()}

  @typedoc "The name an instance was started with."
  @type name :: atom()

  @typedoc "A count, and by how much one changes: an integer from 0 to 2^32 - 1."
  @type count :: 0..0xFFFF_FFFF

  @typedoc "Counters by name; what is not named is 0."
  @type counters :: %{optional(atom()) => count()} | [{atom(), count()}]

  @typedoc "An operation of `update/2`."
  @type operation ::
          {:ack, id(), channel(), id()}
          | {:increment | :decrement, id(), channel(), id(), count()}
          | {:increment | :decrement, id(), channel(), id(), count(), counter :: atom()}
          | {:put, id(), channel(), id(), counters()}
          | {:delete, id(), channel()}
          | {:delete, id()}

  @typedoc """
  Why a write did not return `:ok`. Nothing was accepted, except where it is `:journal_failed` with
  `sync_every: 0`: see [Errors](#module-errors).
  """
  @type write_error :: :overloaded | :closed | :disk_full | :journal_failed

  @typedoc "Why a read has no answer."
  @type read_error :: :timeout | :store_unavailable | :overloaded | :closed

  @typedoc "An option of `start_link/1`."
  @type option ::
          {:name, name()}
          | {:store, module() | {module(), keyword()}}
          | {:capacity, pos_integer()}
          | {:memory, pos_integer()}
          | {:dirty_memory, pos_integer()}
          | {:counters, [atom(), ...]}
          | {:journal,
             boolean()
             | [path: String.t(), max_size: pos_integer(), sync_every: non_neg_integer()]}
          | {:eviction, :clock | :lru}
          | {:commit_after, non_neg_integer()}
          | {:load_timeout, pos_integer()}
          | {:drain_timeout, pos_integer()}

  # A list of users is queued for loading in pieces, so that none fills the queue.
  @load_chunk 1_000

  @doc """
  Starts an instance, linked to the caller. Usually a supervisor does it, see `child_spec/1`.

  ## Options

    * `:name` (atom of at most 200 characters, default `ReadStates`) - what the other functions are called with. Several
      instances can run side by side under different names. The supervisor is registered under it, and its processes under
      names below it: `MyApp.ReadStates.Keeper`, `MyApp.ReadStates.Loader0` and so on.
    * `:store` (module or `{module, options}`, default
      `{ReadStates.Store.Local, path: "data/read_states"}`) - where read states are kept when they
      are not in memory, see `ReadStates.Store`. `ReadStates.Store.Memory` is for tests.
    * `:capacity` (read states, default 5,000,000) - how many to keep in memory; each user counts as
      one at least. More means fewer loads. Users with uncommitted changes may exceed it.
    * `:memory` (bytes, at least 4 MiB, default 512 MiB) - how much memory to use; the first of the
      two bounds that is reached counts.
    * `:dirty_memory` (bytes, at least 1 MiB, at most `:memory`, default a quarter of it) - bound on users
      with uncommitted changes. From half of it on, or where a call has found no room, commits do not wait for
      `:commit_after`. When the store is away, or does not keep up, for so long that it is reached, writes return
      `{:error, :overloaded}`. More bridges a longer outage. A single call that needs more than that is always refused:
      with the default one for more than about 550,000 users who are not in memory.
    * `:counters` (1 to 4 atoms, default `[:mention_count]`) - the counters of a read state. The first
      is the one operations use if none is named. Names can be added at the end later.
    * `:journal` (boolean or keyword list, default `true` with `ReadStates.Store.Local`, else `false`) - whether
      writes are in a file before they return, so that `kill -9` of the VM loses nothing. A keyword list means `true` with
        * `:path` (string, default `journal` in the directory of the Local store, needed with other stores) - a directory of its own;
        * `:max_size` (bytes, at least 16 MiB, default 512 MiB) - when it is half full commits hurry, and at the bound writes
          return `{:error, :overloaded}`;
        * `:sync_every` (milliseconds, 0 to 60,000, default 100) - how much a power cut can cost. With 0 every write
          waits for the disk.
    * `:eviction` (`:clock` or `:lru`, default `:clock`) - which users leave when there is no room. `:clock` keeps
      those that are used often, also while a job reads every user once. A user with far more read states than
      others takes up more room, so must be used more often to stay. `:lru` keeps exactly those that were used
      last; it takes about 32 bytes more a user, and every use takes longer.
    * `:commit_after` (milliseconds, 0 to a day, default 30,000) - from the first change of a user to its commit. So that one
      commit has what many users changed, it begins up to a tenth of that later (at least 10 ms, at most 100), and twice
      as much later if the user has to be loaded first. It also waits for the commit or load that is under way, and a change of
      a user who is just being committed counts from the end of that. More means fewer writes to the store, less means a smaller
      journal, or less to lose without one.
    * `:load_timeout` (milliseconds, 1 to a day, default 5,000) - how long a read waits for a load.
    * `:drain_timeout` (milliseconds, 1 to a day, default 30,000) - how long a shutdown waits for commits.

  Returns `{:ok, pid}`, or `{:error, reason}`. Raises `ArgumentError` for an option that is not possible. (What only the store
  knows of its own options is found when it is opened: then a caller that traps no exits ends as the supervisor does, as with
  any start that fails.) The reasons are

    * `{:already_started, pid}` - the instance runs already;
    * `{:not_loaded, text}` - the NIF cannot be loaded, for example on another system than the one it was built for;
    * `{:journal, {reason, text}}` - the journal cannot be taken up, or made: see
      [What can be lost](durability.md#how-it-works);
    * `{:uncommitted, %{users: count, options: options}}` - an instance of this name has stopped in this VM
      without having committed everything, and had other options: see
      [Shutdown](shutdown.md#when-the-store-is-away);
    * the store's own, which its documentation lists; `{exception, stacktrace}` if its
      `c:ReadStates.Store.open/2` raises anything but `ArgumentError`, and `{:bad_return, term}` or
      `{:bad_floor, term}` if that returns something that is no answer, or no possible floor.

      iex> {:ok, _pid} = ReadStates.start_link(name: MyApp.Other, store: ReadStates.Store.Memory)
      iex> ReadStates.ack(MyApp.Other, 1, 10, 100)
      :ok
      iex> ReadStates.start_link(name: MyApp.Third, capacity: 0)
      ** (ArgumentError) capacity must be an integer from 1 to 281474976710655, got: 0
  """
  @spec start_link([option()]) :: Supervisor.on_start() | {:error, term()}
  def start_link(opts \\ []), do: ReadStates.Supervisor.start_link(Options.new!(opts))

  @doc """
  The child specification of an instance, with the id `{ReadStates, name}`.

  Options are those of `start_link/1`. Raises `ArgumentError` for one that is not possible; what only the store knows of its own is
  found at the start.

      iex> ReadStates.child_spec(name: MyApp.ReadStates).id
      {ReadStates, MyApp.ReadStates}
  """
  @spec child_spec([option()]) :: Supervisor.child_spec()
  def child_spec(opts) do
    %{
      id: {__MODULE__, Options.new!(opts).name},
      start: {__MODULE__, :start_link, [Options.seal(opts)]},
      type: :supervisor,
      shutdown: :infinity
    }
  end

  @doc """
  The user has read the channel up to `message`.

  If `message` is newer than the message read last, that moves to it and every counter becomes 0.
  If it is the same or older, nothing changes. Creates the read state if there is none.

  Returns `:ok`, or `{:error, reason}` as [above](#module-errors). Raises `ArgumentError` for
  an argument that is not possible.

      iex> ReadStates.increment(MyApp.ReadStates, 1, 10, 100)
      iex> ReadStates.ack(MyApp.ReadStates, 1, 10, 100)
      :ok
      iex> ReadStates.get(MyApp.ReadStates, 1, 10)
      {:ok, %ReadStates.ReadState{kind: 0, channel: 10, last_message_id: 100, counters: %{mention_count: 0}}}
  """
  @spec ack(name(), id(), channel(), id()) :: :ok | {:error, write_error()}
  def ack(name, user, channel, message) do
    %{engine: engine} = instance = Instance.fetch!(name)

    case Native.ack(engine, user, channel, message) do
      :ok -> :ok
      :invalid -> Argument.invalid_ids!(user, channel, message)
      answer -> written(answer, instance)
    end
  end

  @doc """
  `message` concerns the user, or each of the users: for example it mentions them.

  Adds to a counter if `message` is newer than the message read last; the counter stops at
  2^32 - 1. Creates the read state if there is none. A list of users (at most 1,000,000, and no more than
  `:dirty_memory` has room for, see `start_link/1`) takes one call and is accepted as a whole.

  ## Options

    * `:by` (0 to 2^32 - 1, default 1) - how much to add;
    * `:counter` (default: the first of the instance's) - which counter.

  Returns `:ok`, or `{:error, reason}` as [above](#module-errors). Raises `ArgumentError` for
  an argument that is not possible.

      iex> ReadStates.increment(MyApp.ReadStates, [1, 2, 3], 10, 100)
      :ok
      iex> ReadStates.increment(MyApp.ReadStates, 2, 10, 101, by: 4)
      :ok
      iex> ReadStates.total(MyApp.ReadStates, 2)
      {:ok, 5}
  """
  @spec increment(name(), id() | [id()], channel(), id(), counter: atom(), by: count()) ::
          :ok | {:error, write_error()}
  def increment(name, user_or_users, channel, message, opts \\ []) do
    add(name, user_or_users, channel, message, opts, false)
  end

  @doc """
  `message` no longer concerns the user, or each of the users: for example it was deleted.

  Takes from a counter if `message` is newer than the message read last; the counter stops at 0.
  Does not create a read state. Options, result and errors are those of `increment/5`.

      iex> ReadStates.increment(MyApp.ReadStates, 1, 10, 100)
      iex> ReadStates.increment(MyApp.ReadStates, 1, 10, 101)
      iex> ReadStates.decrement(MyApp.ReadStates, 1, 10, 100)
      :ok
      iex> ReadStates.total(MyApp.ReadStates, 1)
      {:ok, 1}
  """
  @spec decrement(name(), id() | [id()], channel(), id(), counter: atom(), by: count()) ::
          :ok | {:error, write_error()}
  def decrement(name, user_or_users, channel, message, opts \\ []) do
    add(name, user_or_users, channel, message, opts, true)
  end

  defp add(name, users, channel, message, opts, down) do
    %{engine: engine, counters: names} = instance = Instance.fetch!(name)
    {counter, by} = added(opts, names)

    if is_list(users) do
      {kind, id} = Argument.channel!(channel)
      message = Argument.id!(:message, message)

      case Native.add_many(engine, users, kind, id, message, counter, by, down) do
        :long -> Native.add_many_long(engine, users, kind, id, message, counter, by, down)
        answer -> answer
      end
      |> written(instance, &Argument.invalid_users!(users, &1))
    else
      case Native.add(engine, users, channel, message, counter, by, down) do
        :ok -> :ok
        :invalid -> Argument.invalid_ids!(users, channel, message)
        answer -> written(answer, instance)
      end
    end
  end

  defp added([], _names), do: {0, 1}

  defp added(opts, names) do
    Argument.options!(opts, [:counter, :by])

    counter =
      case Keyword.fetch(opts, :counter) do
        {:ok, counter} -> Argument.counter!(counter, names)
        :error -> 0
      end

    {counter, Argument.by!(Keyword.get(opts, :by, 1))}
  end

  @doc """
  Sets a read state as given, also backwards: "mark as unread", or a manual ack.

  `counters` is a map or a keyword list; a counter that is not named becomes 0. Creates the read
  state if there is none.

  Returns `:ok`, or `{:error, reason}` as [above](#module-errors). Raises `ArgumentError` for
  an argument that is not possible.

      iex> ReadStates.ack(MyApp.ReadStates, 1, {7, 10}, 100)
      iex> ReadStates.put(MyApp.ReadStates, 1, {7, 10}, 90, mention_count: 2)
      :ok
      iex> ReadStates.get(MyApp.ReadStates, 1, {7, 10})
      {:ok, %ReadStates.ReadState{kind: 7, channel: 10, last_message_id: 90, counters: %{mention_count: 2}}}
  """
  @spec put(name(), id(), channel(), id(), counters()) :: :ok | {:error, write_error()}
  def put(name, user, channel, message, counters) do
    instance = Instance.fetch!(name)
    user = Argument.id!(:user, user)
    {kind, id} = Argument.channel!(channel)
    message = Argument.id!(:message, message)
    counters = Argument.counters!(counters, instance.counters)
    written(Native.put(instance.engine, user, kind, id, message, counters), instance)
  end

  @doc """
  Carries out many operations, of any users, in their order and in one call.

  The operations are those of the functions of the same names:

      {:ack, user, channel, message}
      {:increment, user, channel, message, by}
      {:increment, user, channel, message, by, counter}
      {:decrement, user, channel, message, by}
      {:decrement, user, channel, message, by, counter}
      {:put, user, channel, message, counters}
      {:delete, user, channel}
      {:delete, user}

  At most 1,000,000 at once. They are accepted as a whole, or not at all; a concurrent reader
  may see some of them before the others.

  Returns `:ok`, or `{:error, reason}` as [above](#module-errors). Raises `ArgumentError` if one of
  them is not possible, and then none has been carried out.

      iex> ReadStates.update(MyApp.ReadStates, [
      ...>   {:increment, 1, 10, 100, 2},
      ...>   {:ack, 1, 11, 200},
      ...>   {:put, 2, 10, 50, %{mention_count: 7}},
      ...>   {:delete, 3}
      ...> ])
      :ok
      iex> ReadStates.update(MyApp.ReadStates, [{:delete, 1}, {:ack, 1, 10, -1}])
      ** (ArgumentError) operations[1], {:ack, 1, 10, -1}: message must be an integer from 0 to 2^64 - 1, got: -1
  """
  @spec update(name(), [operation()]) :: :ok | {:error, write_error()}
  def update(name, operations) do
    %{engine: engine, counters: names} = instance = Instance.fetch!(name)

    case Native.update(engine, operations) do
      :long -> Native.update_long(engine, operations)
      answer -> answer
    end
    |> written(instance, &Argument.invalid_operations!(operations, &1, names))
  end

  @doc """
  Deletes one read state, in the store too. One that is not there stays so.

  Returns `:ok`, or `{:error, reason}` as [above](#module-errors). Raises `ArgumentError` for
  an argument that is not possible.

      iex> ReadStates.ack(MyApp.ReadStates, 1, 10, 100)
      iex> ReadStates.delete(MyApp.ReadStates, 1, 10)
      :ok
      iex> ReadStates.list(MyApp.ReadStates, 1)
      {:ok, []}
  """
  @spec delete(name(), id(), channel()) :: :ok | {:error, write_error()}
  def delete(name, user, channel) do
    instance = Instance.fetch!(name)
    user = Argument.id!(:user, user)
    {kind, id} = Argument.channel!(channel)
    written(Native.delete(instance.engine, user, kind, id), instance)
  end

  @doc """
  Deletes every read state of a user, in the store too.

  Returns `:ok`, or `{:error, reason}` as [above](#module-errors). Raises `ArgumentError` for
  an argument that is not possible.

      iex> ReadStates.ack(MyApp.ReadStates, 1, 10, 100)
      iex> ReadStates.delete(MyApp.ReadStates, 1)
      :ok
      iex> ReadStates.list(MyApp.ReadStates, 1)
      {:ok, []}
  """
  @spec delete(name(), id()) :: :ok | {:error, write_error()}
  def delete(name, user) do
    instance = Instance.fetch!(name)
    written(Native.delete_user(instance.engine, Argument.id!(:user, user)), instance)
  end

  @doc """
  One read state. One that was never written has 0 everywhere.

  Returns `{:ok, read_state}`, or `{:error, reason}` as [above](#module-errors) if the user could not be loaded. Raises
  `ArgumentError` for an argument that is not possible.

      iex> ReadStates.get(MyApp.ReadStates, 1, 10)
      {:ok, %ReadStates.ReadState{kind: 0, channel: 10, last_message_id: 0, counters: %{mention_count: 0}}}
  """
  @spec get(name(), id(), channel()) :: {:ok, ReadState.t()} | {:error, read_error()}
  def get(name, user, channel) do
    %{engine: engine, zeros: zeros} = instance = Instance.fetch!(name)

    case Native.get(engine, user, channel) do
      last when is_integer(last) ->
        {:ok, ReadState.new(channel, last, zeros)}

      :invalid ->
        Argument.invalid_ids!(user, channel)

      answer ->
        native = fn -> Native.get(engine, user, channel) end

        with {:ok, found} <- answered(answer, instance, native, user),
             do: {:ok, ReadState.new(channel, found, zeros)}
    end
  end

  @doc """
  The user's read states, sorted by kind and id of the channel.

  ## Options

    * `:after` (a channel) - only those after it: with `:limit`, the next page. Give `{kind, channel}` of
      the last read state of the page before: a plain integer is of kind 0, and lists go on to other kinds;
    * `:limit` (a non-negative integer) - at most so many;
    * `:nonzero` (a counter) - only those in which this counter is above 0.

  Returns `{:ok, read_states}`, or `{:error, reason}` as [above](#module-errors) if the user could not be loaded. Raises
  `ArgumentError` for an argument that is not possible.

      iex> for channel <- [12, 10, 11], do: ReadStates.ack(MyApp.ReadStates, 1, channel, 100)
      iex> ReadStates.increment(MyApp.ReadStates, 1, 11, 101)
      iex> {:ok, [first, second]} = ReadStates.list(MyApp.ReadStates, 1, limit: 2)
      iex> {first.channel, second.channel}
      {10, 11}
      iex> {:ok, [third]} = ReadStates.list(MyApp.ReadStates, 1, after: {second.kind, second.channel})
      iex> third.channel
      12
      iex> {:ok, [unread]} = ReadStates.list(MyApp.ReadStates, 1, nonzero: :mention_count)
      iex> unread.channel
      11
  """
  @spec list(name(), id(), after: channel(), limit: non_neg_integer(), nonzero: atom()) ::
          {:ok, [ReadState.t()]} | {:error, read_error()}
  def list(name, user, opts \\ []) do
    %{engine: engine, counters: names} = instance = Instance.fetch!(name)
    user = Argument.id!(:user, user)
    {from, limit, nonzero} = query(opts, names)

    native = fn ->
      with :long <- Native.list(engine, user, from, limit, nonzero) do
        Native.list_long(engine, user, from, limit, nonzero)
      end
    end

    with {:ok, binary} <- read(instance, native, user) do
      {:ok, ReadState.from_binary(binary, names, instance.zeros)}
    end
  end

  defp query([], _names), do: {nil, nil, nil}

  defp query(opts, names) do
    Argument.options!(opts, [:after, :limit, :nonzero])

    Enum.reduce(opts, {nil, nil, nil}, fn
      {:after, channel}, {_after, limit, nonzero} ->
        {Argument.channel!(:after, channel), limit, nonzero}

      {:limit, limit}, {from, _limit, nonzero} ->
        {from, min(Argument.limit!(limit), 0xFFFF_FFFF), nonzero}

      {:nonzero, counter}, {from, limit, _nonzero} ->
        {from, limit, Argument.counter!(:nonzero, counter, names)}
    end)
  end

  @doc """
  The sum of the instance's first counter over the user's read states: the badge.

  Returns `{:ok, sum}`, or `{:error, reason}` as [above](#module-errors) if the user could not be loaded. Raises
  `ArgumentError` for an argument that is not possible. The sum for a user with more than 100,000 read states is not of one
  moment: what is written meanwhile may be in it or not.

      iex> ReadStates.increment(MyApp.ReadStates, 1, 10, 100)
      iex> ReadStates.increment(MyApp.ReadStates, 1, 11, 200, by: 2)
      iex> ReadStates.total(MyApp.ReadStates, 1)
      {:ok, 3}
  """
  @spec total(name(), id()) :: {:ok, non_neg_integer()} | {:error, read_error()}
  def total(name, user), do: total_of(Instance.fetch!(name), user, 0)

  @doc """
  The sum of a counter over the user's read states.

  Returns what `total/2` returns. Raises `ArgumentError` for an argument that is not possible, such as a counter that the instance does not have.

      iex> ReadStates.put(MyApp.ReadStates, 1, 10, 100, mention_count: 3)
      iex> ReadStates.total(MyApp.ReadStates, 1, :mention_count)
      {:ok, 3}
  """
  @spec total(name(), id(), atom()) :: {:ok, non_neg_integer()} | {:error, read_error()}
  def total(name, user, counter) do
    instance = Instance.fetch!(name)
    total_of(instance, user, Argument.counter!(counter, instance.counters))
  end

  defp total_of(%{engine: engine} = instance, user, counter) do
    user = Argument.id!(:user, user)

    native = fn ->
      with :long <- Native.total(engine, user, counter),
           do: Native.total_long(engine, user, counter)
    end

    read(instance, native, user)
  end

  @doc """
  Makes users (at most 1,000,000) resident: to warm up, or before a storm of connects.

  Users are loaded a thousand at a time, and `:load_timeout` is for each thousand, not for the call.
  They can be evicted again as any others: if there is not room for all of them, the first are evicted
  while the last are loaded.

  Returns `:ok` when all have been loaded, or `{:error, reason}` if one of them could not be; those who
  were loaded before stay. Raises `ArgumentError` for an argument that is not possible.

      iex> ReadStates.load(MyApp.ReadStates, [1, 2, 3])
      :ok
  """
  @spec load(name(), [id()]) :: :ok | {:error, read_error()}
  def load(name, users) do
    instance = Instance.fetch!(name)
    Argument.users!(users)

    users
    |> Enum.chunk_every(@load_chunk)
    |> Enum.reduce_while(:ok, fn chunk, :ok ->
      continue(load_chunk(instance, chunk, deadline(instance)))
    end)
  end

  defp load_chunk(instance, users, deadline) do
    case Native.want(instance.engine, users) do
      {:ok, absent} ->
        absent
        |> Enum.group_by(&elem(&1, 1), &elem(&1, 0))
        |> Enum.reduce_while(:ok, fn {partition, users}, :ok ->
          case Loader.await(instance, partition, users, deadline) do
            :ok -> {:cont, :ok}
            :retry -> continue(load_chunk(instance, users, deadline))
            error -> {:halt, error}
          end
        end)

      :overloaded ->
        {:error, :overloaded}
    end
  end

  defp continue(:ok), do: {:cont, :ok}
  defp continue(error), do: {:halt, error}

  @doc """
  Commits everything that was accepted before the call: pending operations and deletes too.

  Waits for as long as it takes, without a deadline. Where the store hangs, each call of it is given up
  after a minute.

  Returns `:ok` when everything is durable in the store, or `{:error, reason}`. What could not be
  committed is not lost, and is tried again later. The reasons are

    * `:store_unavailable` - a commit failed, or the load of a user who has something to be committed. Users
      are in two halves that commit by themselves, and a failure is one for all of its half;
    * `:journal_failed` - the journal could not be written or synced, which comes before a commit, or what it has of an
      earlier life could not be read again;
    * `:closed` - the instance has stopped meanwhile.

  Raises `ArgumentError` if there is no such instance.

      iex> ReadStates.ack(MyApp.ReadStates, 1, 10, 100)
      iex> ReadStates.commit(MyApp.ReadStates)
      :ok
  """
  @spec commit(name()) :: :ok | {:error, :store_unavailable | :journal_failed | :closed}
  def commit(name), do: Flush.run(Instance.fetch!(name), :infinity)

  @doc """
  Figures of an instance, at a glance: see `ReadStates.Stats`.

  Raises `ArgumentError` if there is no such instance.

      iex> ReadStates.ack(MyApp.ReadStates, 1, 10, 100)
      iex> ReadStates.load(MyApp.ReadStates, [1])
      iex> %{users: 1, states: 1, capacity: 5_000_000} = ReadStates.stats(MyApp.ReadStates)
  """
  @spec stats(name()) :: Stats.t()
  def stats(name), do: Stats.of(Instance.fetch!(name).engine)

  @doc """
  Changes the bounds of a running instance: `:capacity`, `:memory` and `:dirty_memory`, see
  `start_link/1`. What is not named stays. Evicts at once what no longer fits.

  `:dirty_memory` does not follow `:memory`. If `memory` would be below it, give both: `memory` alone
  raises, and the error names `dirty_memory`. The new bounds hold until the instance is stopped in an
  orderly way with everything committed; the next start takes those of its options. They stay if the supervisor
  dies and is restarted with the same options.

  Returns `:ok`. Raises `ArgumentError` for a bound that is not possible.

      iex> ReadStates.resize(MyApp.ReadStates, capacity: 1_000)
      :ok
      iex> ReadStates.stats(MyApp.ReadStates).capacity
      1000
  """
  @spec resize(name(),
          capacity: pos_integer(),
          memory: pos_integer(),
          dirty_memory: pos_integer()
        ) :: :ok
  def resize(name, opts) do
    %{engine: engine} = Instance.fetch!(name)
    Native.resize(engine, Native.fields(Options.bounds!(opts, Stats.of(engine))))
  end

  # What a write answers, see ReadStates.Native.
  defp written(answer, instance, invalid \\ &raise(inspect(&1)))
  defp written(:ok, _instance, _invalid), do: :ok
  defp written(:unsynced, instance, _invalid), do: Syncer.await(instance)

  defp written(:wake, instance, _invalid) do
    Instance.wake(instance)

    if match?(%{sync_every: 0}, instance.options.journal),
      do: Syncer.await(instance),
      else: :ok
  end

  defp written(error, _instance, _invalid)
       when error in [:overloaded, :closed, :disk_full, :journal_failed],
       do: {:error, error}

  defp written(error, _instance, invalid), do: invalid.(error)

  defp read(instance, native, user), do: answered(native.(), instance, native, user)

  # A read of a user who is not resident waits for the load and is done again.
  defp answered(answer, instance, native, user, deadline \\ nil)

  defp answered({:absent, partition}, instance, native, user, deadline) do
    deadline = deadline || deadline(instance)

    case Loader.await(instance, partition, [user], deadline) do
      {:error, reason} -> {:error, reason}
      _loaded -> answered(native.(), instance, native, user, deadline)
    end
  end

  defp answered(:overloaded, _instance, _native, _user, _deadline), do: {:error, :overloaded}

  defp answered(value, _instance, _native, _user, _deadline) when not is_atom(value),
    do: {:ok, value}

  defp deadline(instance), do: Loader.now() + instance.load_timeout
end
