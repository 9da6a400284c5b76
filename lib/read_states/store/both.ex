defmodule ReadStates.Store.Both do
  @moduledoc """
  Two stores as one, to move from one to the other while the instance goes on.

      {ReadStates,
       name: MyApp.ReadStates,
       store:
         {ReadStates.Store.Both,
          from: {ReadStates.Store.Local, path: "data/read_states"},
          to: {ReadStates.Store.Postgres, url: System.fetch_env!("DATABASE_URL")}},
       journal: [path: "data/read_states/journal"]}

  Everything is committed to both, and what is read is what the newer of the two has of each read state. So nothing depends on
  which of them has what. `copy/2` brings what only the first has to the second, while the instance works; after that the second
  has everything, and can be used alone. The guide [Moving to another store](moving.md) has the steps.

  The second store has to be empty at the beginning. A store remembers deletes for a while only, so an old row in the second
  may be one that the first has deleted since, and it would be read again. Nothing else can go wrong: of two rows the newer is
  read. It is not checked at the start, as an interrupted move looks the same. `copy/2` fails if there is something in the
  second that the first has not, unless told that other instances move to it as well.

  A call fails if it fails in either of the stores.

  ## Options

  - `:from` (a store, as an instance is given it, required) - the one to move away from.
  - `:to` (a store, required) - the one to move to.

  ## Errors

  Those of the stores, as `{:error, {:from, reason}}` or `{:error, {:to, reason}}`.
  """

  @behaviour ReadStates.Store

  alias ReadStates.{Argument, Batch, Copy, Instance, Row}

  # Entries a page.
  @page 10_000
  # Users of a scan that are read at a time.
  @users 256

  @doc """
  Copies everything of the first store that the second has not, while the instance `name`, whose store this is, goes on.

  Returns `{:ok, figures}` when the second store has every row of the first, as it is or newer, and no other; the figures are `rows`, `deletes` and
  `users` that the first had at the beginning. Returns `{:error, {reason, text}}` as `ReadStates.Copy.copy/3` does. It can be called
  again at any time.

  Options: `:merge`, where several instances move to the same store, `:resume` and `:on_progress` of `ReadStates.Copy.copy/3`. With `merge: true`
  what else the second store has is not looked at. The guide [Moving to another store](moving.md) says what then comes of deletes.

  Raises `ArgumentError` if there is no such instance, or its store is another one, or an option is wrong.
  """
  @spec copy(atom, keyword) :: {:ok, Copy.figures()} | {:error, {atom, String.t()}}
  def copy(name, opts \\ []) do
    Argument.options!(opts, [:merge, :resume, :on_progress])
    instance = Instance.fetch!(name)

    case Instance.store(instance) do
      {__MODULE__, %{from: from, to: to}} -> Copy.copy_live(from, to, instance.options, opts)
      _other -> Argument.invalid!(:name, name, "that of an instance with this store")
    end
  end

  @impl true
  def open(opts, context) do
    Argument.options!(opts, [:from, :to])
    [from, to] = Enum.map([:from, :to], &store!(&1, opts[&1]))
    if from == to, do: raise(ArgumentError, "from and to must be two stores")

    with {:ok, from, floor} <- open(:from, from, context) do
      case open_or_close(to, context, from) do
        {:ok, to, other} ->
          {:ok, %{from: from, to: to, counters: length(context.counters)}, max(floor, other)}

        # An error, or what is no answer.
        other ->
          close_one(from)
          other
      end
    end
  end

  # Nobody else closes `from` if `to` raises, for its options are wrong.
  defp open_or_close(to, context, from) do
    open(:to, to, context)
  catch
    kind, reason ->
      close_one(from)
      :erlang.raise(kind, reason, __STACKTRACE__)
  end

  defp open(which, {module, opts}, context) do
    with {:ok, store, floor} <- named(which, module.open(opts, context)),
         do: {:ok, {module, store}, floor}
  end

  # What is wrong is not shown: there may be a password in it.
  defp store!(which, store) do
    {module, opts} = if is_atom(store), do: {store, []}, else: pair!(which, store)

    unless module && Code.ensure_loaded?(module) && function_exported?(module, :commit, 2),
      do: wrong!(which)

    {module, opts}
  end

  defp pair!(_which, {module, opts} = store) when is_atom(module) and is_list(opts), do: store
  defp pair!(which, _other), do: wrong!(which)

  @spec wrong!(atom) :: no_return
  defp wrong!(which) do
    raise ArgumentError,
          "#{which} must be a module that implements ReadStates.Store, or {module, keyword list}"
  end

  # The new one first: so it is never behind what is read in the old one.
  @impl true
  def commit(%{from: from, to: to}, batch) do
    with :ok <- named(:to, commit_one(to, batch)), do: named(:from, commit_one(from, batch))
  end

  # A cursor has what is still to be given of users who were read, and the users who were not.
  @impl true
  def load(store, users, nil) do
    with {:ok, from, more_from} <- named(:from, load_one(store.from, users, nil)),
         {:ok, to, more_to} <- named(:to, load_one(store.to, users, nil)) do
      # Most have few read states. Where they have more, the memory for one user is all that is taken.
      if more_from == nil and more_to == nil,
        do: give(store, merge(Enum.concat(from, to)), []),
        else: load(store, [], {[], Enum.uniq(users)})
    end
  end

  def load(store, _users, {[], []}), do: give(store, [], [])

  def load(store, _users, {[], [user | users]}) do
    with {:ok, entries} <- load_all(store, user), do: give(store, entries, users)
  end

  def load(store, _users, {entries, users}), do: give(store, entries, users)

  defp give(store, entries, users) do
    {page, rest} = Enum.split(entries, @page)
    next = if rest != [] or users != [], do: {rest, users}
    {:ok, Batch.new(page, store.counters), next}
  end

  defp load_all(store, user) do
    with {:ok, from} <- named(:from, pages(store.from, user, nil, [])),
         {:ok, to} <- named(:to, pages(store.to, user, nil, [])),
         do: {:ok, merge(from ++ to)}
  end

  defp pages(store, user, cursor, before) do
    case load_one(store, [user], cursor) do
      {:ok, batch, nil} -> {:ok, Enum.concat(batch, before)}
      {:ok, batch, next} -> pages(store, user, next, Enum.concat(batch, before))
      {:error, reason} -> {:error, reason}
    end
  end

  # The version rule: of each place the newest, of equal ones the first; and of the user what is above his delete.
  defp merge(entries) do
    newest =
      Enum.reduce(entries, %{}, fn entry, newest ->
        Map.update(
          newest,
          place(entry),
          entry,
          &if(version(entry) > version(&1), do: entry, else: &1)
        )
      end)

    # In their order, which keeps a user together.
    for {{user, _channel} = place, entry} <- Enum.sort(newest),
        counts?(place, entry, newest[{user, nil}]),
        do: entry
  end

  defp counts?({_user, nil}, _entry, _deleted), do: true
  defp counts?(_place, _entry, nil), do: true
  defp counts?(_place, entry, deleted), do: version(entry) > version(deleted)

  # All users of the first store, and then those that only the second has; some at a time, as loads. A cursor has
  # the place in that store, the users of its page who are still to be given, and the cursor of the load under way.
  @impl true
  def scan(store, nil), do: scan(store, {:from, nil, nil})

  # Who is the last of a page may go on in the next one, and has been given whole.
  def scan(store, {which, cursor, last}) do
    {module, opened} = Map.fetch!(store, which)

    with {:ok, batch, next} <- named(which, module.scan(opened, cursor)) do
      users = batch |> Stream.map(&user/1) |> Enum.dedup()
      next = if next == nil, do: :end, else: next
      scan(store, {which, next, List.last(users) || last, List.delete(users, last)})
    end
  end

  def scan(store, {:from, :end, _last, []}), do: scan(store, {:to, nil, nil})
  def scan(store, {:to, :end, _last, []}), do: give(store, [], [])
  def scan(store, {which, next, last, []}), do: scan(store, {which, next, last})

  def scan(store, {which, next, last, users}) do
    {some, users} = Enum.split(users, @users)

    with {:ok, some} <- not_given(store, which, some),
         do: scan(store, {which, next, last, users, some, nil})
  end

  def scan(store, {which, next, last, users, some, cursor}) do
    with {:ok, batch, more} <- load(store, some, cursor) do
      rest = {which, next, last, users}
      {:ok, batch, if(more == nil, do: rest, else: {which, next, last, users, some, more})}
    end
  end

  defp not_given(_store, :from, users), do: {:ok, users}

  defp not_given(store, :to, users) do
    with {:ok, given} <- known(store.from, users, nil, MapSet.new()),
         do: {:ok, Enum.reject(users, &(&1 in given))}
  end

  # Those of the users of whom the store has something.
  defp known({module, opened} = store, users, cursor, before) do
    case named(:from, module.load(opened, users, cursor)) do
      {:ok, batch, nil} -> {:ok, Enum.into(batch, before, &user/1)}
      {:ok, batch, next} -> known(store, users, next, Enum.into(batch, before, &user/1))
      {:error, reason} -> {:error, reason}
    end
  end

  # Versions that the journal does not know of may be another instance's in one of them.
  @impl true
  def shared?(%{from: from, to: to}), do: Enum.any?([from, to], &shared_one?/1)

  defp shared_one?({module, store}) do
    function_exported?(module, :shared?, 1) and module.shared?(store)
  end

  @impl true
  def close(%{from: from, to: to}) do
    close_one(from)
  after
    close_one(to)
  end

  defp load_one({module, store}, users, cursor), do: module.load(store, users, cursor)
  defp commit_one({module, store}, batch), do: module.commit(store, batch)
  defp close_one({module, store}), do: module.close(store)

  defp named(which, {:error, reason}), do: {:error, {which, reason}}
  defp named(_which, result), do: result

  defp place(%Row{user: user, kind: kind, channel: channel}), do: {user, {kind, channel}}
  defp place({:delete, user, channel, _version}), do: {user, channel}
  defp place({:delete, user, _version}), do: {user, nil}

  defp user(entry), do: entry |> place() |> elem(0)

  defp version(%Row{version: version}), do: version
  defp version({:delete, _user, _channel, version}), do: version
  defp version({:delete, _user, version}), do: version
end
