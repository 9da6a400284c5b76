defmodule ReadStates.Copy do
  @moduledoc """
  Copies everything from one store to another, any two of them, and checks at the end that it is all there.

  `mix read_states.copy` does it from a shell, `copy/3` from code, for example in a release:

      iex> alias ReadStates.Store.Memory
      iex> [from, to] = [Memory.new(), Memory.new()]
      iex> {:ok, store, 0} = Memory.open([data: from], %{name: :here, counters: [:mention_count]})
      iex> row = %ReadStates.Row{
      ...>   user: 1, kind: 0, channel: 2, version: 3, writer: 4, last_message_id: 5, counters: [6]
      ...> }
      iex> :ok = Memory.commit(store, ReadStates.Batch.new([row], 1))
      iex> {:ok, figures} = ReadStates.Copy.copy({Memory, data: from}, {Memory, data: to})
      iex> {figures[:rows], figures[:deletes], figures[:users]}
      {1, 0, 1}

  No instance may write to the first store meanwhile: the guide [Moving to another store](moving.md) says how to move
  one that has to go on.
  """

  alias ReadStates.{Argument, Journal, Options, Row, Secret}
  alias ReadStates.Copy.{Checkpoint, Digest}
  alias ReadStates.Store.{Cassandra, Local, Postgres}

  # Commits under way at the same time; and where an instance makes calls of the same store, up to eight: Local and Memory take nine.
  @commits 4
  @live_commits 1
  # Tries of a call of a store, with pauses in milliseconds between.
  @pauses [100, 500, 2_000, 5_000]
  # Rows looked up at a time where the stores are compared row by row, at least.
  @compared 256
  # Of rows that differ, so many are named.
  @named 3
  # Rows that only one store has, of which it is seen in the end whether that is still so.
  @suspects 10_000
  # Milliseconds until then. A commit under way is in the second store before it is in the first.
  @looks [500, 2_000, 5_000]
  # What is found where two stores are the same.
  @nothing %{missing: {0, []}, newer: {0, []}, different: {0, []}}
  # The stores that note the counters.
  @noting [Local, Postgres, Cassandra]

  @typedoc "As an instance is given it: a module, or a module and its options."
  @type store :: module | {module, keyword}

  @typedoc "Name and value, in the order in which they are printed."
  @type figures :: [{atom, non_neg_integer | String.t()}]

  @doc """
  Copies every row and every delete that is remembered of the store `from` into the store `to`, and compares the two.

  What is in `to` before stays, and of what is in both the newer wins: so a copy that was interrupted can be made again from
  the beginning. With `:resume` it goes on where it was.

  Options:

  - `:counters` (list of atoms, by default `[:mention_count]`) - the counters, as the instance has them;
  - `:resume` (path of a file, by default none) - where it is noted how far the copy is. If the file is there, of a copy
    between the same stores, the copy goes on from there. It is removed at the end;
  - `:merge` (boolean, by default `false`) - whether other stores are copied to `to` as well, or instances write to it. Then
    at the end `to` must have every row of `from`, as it is or newer, and what else it has is not looked at. What `from` still has
    and another store has deleted is back if the delete is not remembered any more; the guide
    [Moving to another store](moving.md) says more;
  - `:on_progress` (function of two arguments) - called with the steps done and the steps in all. An entry is a step in each
    pass over everything: in three, and in two with `:merge` and by `ReadStates.Store.Both.copy/2`.

  Returns `{:ok, figures}`: `rows`, `deletes` and `users` that `from` has; and, without `:merge`, `sha256`, the sum (in 256 bits)
  of the digests of all rows, which is the same for both stores when all is copied.

  Returns `{:error, {reason, text}}`, where the text is for people, and `reason` is `:open`, `:read` or `:write` for what a
  store has refused, `:journal` where there is a journal beside a store of `ReadStates.Store.Local` with something in
  it that is not committed, `:resume` for the file of that option, and `:different` if at the end the rows are not as they must be.
  If `from` is a store that notes its counters, `:counters` must be those.

  Raises `ArgumentError` if an argument is wrong.
  """
  @spec copy(store, store, keyword) :: {:ok, figures} | {:error, {atom, String.t()}}
  def copy(from, to, opts \\ []) do
    Argument.options!(opts, [:counters, :merge, :resume, :on_progress])
    merge = merge!(opts)
    progress!(opts)
    counters = Keyword.get(opts, :counters, [:mention_count])
    from = options!(:from, from, counters)
    to = options!(:to, to, counters)

    if Options.store(from) == Options.store(to) do
      raise ArgumentError, "from and to must be two stores"
    end

    checkpoint = checkpoint!(opts[:resume], from, to)

    check_there(from)
    check_counters(from)

    with_store(:from, from, fn source ->
      with :ok <- check_journal(from) do
        with_store(:to, to, fn target ->
          if merge,
            do: merge(source, target, checkpoint, opts),
            else: equal(source, target, checkpoint, opts)
        end)
      end
    end)
  catch
    {:copy, reason, text} -> {:error, {reason, text}}
  end

  defp merge!(opts) do
    case Keyword.get(opts, :merge, false) do
      merge when is_boolean(merge) -> merge
      other -> Argument.invalid!(:merge, other, "true or false")
    end
  end

  defp options!(name, store, counters) do
    Options.new!(name: __MODULE__, store: store, counters: counters)
  rescue
    error in ArgumentError ->
      reraise ArgumentError, [message: "#{name}: #{Exception.message(error)}"], __STACKTRACE__
  end

  defp checkpoint!(nil, _from, _to), do: nil

  defp checkpoint!(path, from, to) when is_binary(path) and path != "" do
    Checkpoint.new(path, {Options.store(from), Options.store(to), from.counters})
  end

  defp checkpoint!(path, _from, _to), do: Argument.invalid!(:resume, path, "the path of a file")

  defp with_store(which, %{store: {module, sealed}} = options, fun) do
    context = Map.take(options, [:name, :counters])

    case Secret.guard(sealed, fn -> module.open(Secret.unseal(sealed), context) end) do
      {:ok, store, _floor} ->
        try do
          fun.(%{which: which, module: module, store: store, options: sealed, commits: @commits})
        after
          Secret.guard(sealed, fn -> module.close(store) end)
        end

      {:error, {%ArgumentError{} = error, _stack}} ->
        raise ArgumentError, "#{which}: #{Exception.message(error)}"

      {:error, reason} ->
        fail(:open, "#{which}: #{text(reason)}")

      other ->
        fail(:open, "#{which}: open returned #{inspect(Secret.hide(other, sealed))}")
    end
  end

  # It would be made, and be empty.
  defp check_there(from) do
    with {Local, opts} <- Options.store(from),
         path when is_binary(path) <- opts[:path],
         false <- File.dir?(path),
         do: fail(:open, "from: no directory #{path}")
  end

  # A store notes counters that are appended, and refuses an instance without them from then on. That is up to the instance: with
  # those alone that a store has noted, it opens unchanged. The others do not look at them.
  defp check_counters(%{store: {module, _opts}, counters: [_, _ | _] = counters} = from)
       when module in @noting do
    fewer = Enum.map(1..(length(counters) - 1), &Enum.take(counters, &1))

    if noted = Enum.find(fewer, &opens?(%{from | counters: &1})) do
      text =
        "from: its counters are #{Enum.join(noted, ", ")}, and not #{Enum.join(counters, ", ")}"

      fail(:open, text)
    end
  end

  defp check_counters(_from), do: :ok

  defp opens?(from) do
    {:ok, []} == with_store(:from, from, fn _store -> {:ok, []} end)
  catch
    {:copy, :open, _text} -> false
  end

  # What is only in the journal would not be copied.
  defp check_journal(options) do
    case Journal.open(%{options | journal: nil}, 0) do
      {:ok, nil} ->
        :ok

      {:error, {:journal, {:not_empty, text}}} ->
        fail(:journal, "from: #{text}: start the instance with it, and stop it in an orderly way")

      {:error, {:journal, reason}} ->
        fail(:journal, "from: #{text(reason)}")
    end
  end

  @doc false
  # Of an instance that goes on, between its two stores, which are open: see `ReadStates.Store.Both`.
  def copy_live({source, from}, {target, to}, %{store: {_module, sealed}} = options, opts) do
    merge!(opts)
    checkpoint = checkpoint!(opts[:resume], options, options)
    shared = %{options: sealed, commits: @live_commits}
    source = Map.merge(shared, %{which: :from, module: source, store: from})
    target = Map.merge(shared, %{which: :to, module: target, store: to})
    merge(source, target, checkpoint, opts)
  catch
    {:copy, reason, text} -> {:error, {reason, text}}
  end

  defp progress!(opts) do
    progress = Keyword.get(opts, :on_progress, fn _done, _all -> :ok end)

    unless is_function(progress, 2),
      do: Argument.invalid!(:on_progress, progress, "a function of two arguments")

    progress
  end

  # The target must have every row, as it is or newer, and no others, unless it gets those of other stores too.
  defp merge(source, target, checkpoint, opts) do
    {before, progress} = copy_all(source, target, checkpoint, 2, progress!(opts))

    found =
      source
      |> compare_all(target, :merge, &progress.(1, &1))
      |> Map.update!(:missing, &still_missing(&1, source, target))

    extra = if opts[:merge], do: [], else: extra_rows(source, target)

    case {found, extra} do
      {%{missing: {0, _}, different: {0, _}}, []} ->
        {:ok, before |> Digest.figures() |> Keyword.delete(:sha256)}

      {found, extra} ->
        fail(:different, text_of(found, extra))
    end
  end

  # The two must have the same rows.
  defp equal(source, target, checkpoint, opts) do
    {_before, progress} = copy_all(source, target, checkpoint, 3, progress!(opts))

    # As it is after the copy: whatever was written to it behind a page that was copied is missing.
    original = digest(source, &progress.(1, &1))
    copied = digest(target, &progress.(2, &1))

    if Digest.same?(original, copied) do
      {:ok, Digest.figures(original)}
    else
      found = compare_all(source, target, :equal, fn _done -> :ok end)
      rows = "to has #{Digest.rows(copied)} rows and from #{Digest.rows(original)}, of which "
      fail(:different, rows <> text_of(found, extra_rows(source, target)))
    end
  end

  # The first of so many passes over everything. Returns also what is to be called with how far which one is.
  defp copy_all(source, target, checkpoint, passes, progress) do
    start = Checkpoint.read(checkpoint)
    # So that it is known how much there is.
    before = digest(source, fn _done -> :ok end)
    entries = Digest.entries(before)
    progress = &progress.(&1 * entries + min(&2, entries), passes * entries)
    copy_pages(source, target, start, checkpoint, &progress.(0, &1))
    # If they differ, it is not enough to go on from the end.
    Checkpoint.remove(checkpoint)
    {before, progress}
  end

  defp copy_pages(source, target, {cursor, done}, checkpoint, progress) do
    source
    |> pages(cursor)
    |> Task.async_stream(&commit(target, &1), max_concurrency: target.commits, timeout: :infinity)
    |> Enum.reduce(done, fn {:ok, {result, entries, next}}, done ->
      with {:error, reason} <- result, do: fail(:write, "to: #{text(reason)}")
      done = done + entries
      # What came before it is committed too: the results are in the order of the pages.
      Checkpoint.write(checkpoint, next, done)
      progress.(done)
      done
    end)
  end

  defp commit(target, {batch, next}) do
    {call(target, & &1.commit(&2, batch)), Enum.count(batch), next}
  end

  defp digest(store, progress) do
    store
    |> pages(nil)
    |> Enum.reduce(Digest.new(), fn {batch, _next}, digest ->
      digest = Enum.reduce(batch, digest, &Digest.add(&2, &1))
      progress.(Digest.entries(digest))
      digest
    end)
  end

  # The pages of a scan, each with the cursor of the next, which is `:end` after the last.
  defp pages(store, cursor), do: pages(store, cursor, & &1.scan(&2, &3))

  defp pages(store, cursor, page) do
    Stream.unfold(cursor, fn
      :end ->
        nil

      cursor ->
        case call(store, &page.(&1, &2, cursor)) do
          {:ok, batch, nil} -> {{batch, :end}, :end}
          {:ok, batch, next} -> {{batch, next}, next}
          {:error, reason} -> fail(:read, "#{store.which}: #{text(reason)}")
        end
    end)
  end

  # How many rows of the source the target has not, or not as they are, each with some of them.
  # To `:merge`, a row below a delete that the target remembers is none: of an instance, the delete is on its way to the source.
  defp compare_all(source, target, mode, progress) do
    source
    |> pages(nil)
    |> Stream.flat_map(fn {batch, _next} -> rows(batch) end)
    |> chunks()
    |> Enum.reduce({@nothing, 0}, fn rows, {found, done} ->
      done = done + length(rows)
      progress.(done)
      {compare(source, target, mode, rows, found), done}
    end)
    |> elem(0)
  end

  # Of a user all rows that follow each other, for to look one of them up all are read.
  defp chunks(rows) do
    Stream.chunk_while(
      rows,
      {[], 0},
      fn
        row, {[before | _] = chunk, count} when count >= @compared and before.user != row.user ->
          {:cont, Enum.reverse(chunk), {[row], 1}}

        row, {chunk, count} ->
          {:cont, {[row | chunk], count + 1}}
      end,
      fn
        {[], 0} -> {:cont, nil}
        {chunk, _count} -> {:cont, Enum.reverse(chunk), nil}
      end
    )
  end

  # The rows that the target has and the source has not, or as many of them as anybody wants to know of.
  defp extra_rows(source, target) do
    target
    |> pages(nil)
    |> Stream.flat_map(fn {batch, _next} -> rows(batch) end)
    |> chunks()
    |> Stream.flat_map(&only_there(&1, target, source))
    |> Enum.take(@suspects)
    |> still_only(target, source, @looks)
  end

  # A delete under way is such a row too, where the target does not tell what it remembers of deletes.
  defp still_missing({count, rows}, source, target) when count <= @suspects do
    rows = still_only(rows, source, target, @looks)
    {length(rows), rows}
  end

  defp still_missing(too_many, _source, _target), do: too_many

  # Those of these rows that `there` has in the end and `here` has not.
  defp still_only(rows, _there, _here, pauses) when rows == [] or pauses == [], do: rows

  defp still_only(rows, there, here, [pause | pauses]) do
    Process.sleep(pause)

    rows
    |> chunks()
    |> Enum.flat_map(&only_there(&1, there, here))
    |> still_only(there, here, pauses)
  end

  # Those of these rows whose places `there` has now and `here` has not.
  defp only_there(rows, there, here) do
    known = lookup(here, rows)

    case Enum.reject(rows, &is_map_key(known, place(&1))) do
      [] ->
        []

      others ->
        now = lookup(there, others)
        for row <- others, %Row{} = row <- [now[place(row)]], do: row
    end
  end

  defp text_of(
         %{missing: {missing, rows}, newer: {newer, _}, different: {different, others}},
         extra
       ) do
    "to has #{missing} not at all, #{newer} newer and #{different} with other values" <>
      examples(rows ++ others) <> text_of_extra(extra)
  end

  defp text_of_extra([]), do: ""

  defp text_of_extra(rows) do
    count = if length(rows) == @suspects, do: "at least #{@suspects}", else: length(rows)

    "; it has #{count} that from has not" <>
      examples(rows) <> ": it has to be empty at first"
  end

  defp examples(rows) do
    rows |> Enum.take(@named) |> Enum.map_join(&", for example #{inspect(&1)}")
  end

  defp compare(source, target, mode, rows, found) do
    there = lookup(target, rows)
    others = Enum.reject(rows, &(there[place(&1)] == &1))

    # What has changed since it was read in the source is no difference: it is compared as it is now.
    now = if others == [], do: %{}, else: lookup(source, others)
    there = if others == [], do: %{}, else: lookup(target, others)

    Enum.reduce(others, found, fn row, found ->
      deleted = if mode == :merge, do: deleted(there, row), else: -1

      case {now[place(row)], there[place(row)]} do
        {nil, _gone} -> found
        {row, row} -> found
        {%{version: version}, nil} when version <= deleted -> found
        {row, nil} -> note(found, :missing, row)
        {%{version: old}, %{version: new} = row} when new > old -> note(found, :newer, row)
        {row, _other} -> note(found, :different, row)
      end
    end)
  end

  # Up to which version what is at the place of this row is deleted, as far as the store remembers.
  defp deleted(found, %Row{user: user} = row) do
    max(Map.get(found, {:delete, place(row)}, -1), Map.get(found, {:delete, user}, -1))
  end

  # What the store has at the places of these rows: rows by place, and the versions of deletes.
  defp lookup(store, rows) do
    users = rows |> Enum.map(& &1.user) |> Enum.uniq()
    wanted = MapSet.new(rows, &place/1)

    for {batch, _next} <- pages(store, nil, & &1.load(&2, users, &3)),
        entry <- batch,
        {key, value} = keyed(entry),
        is_integer(value) or key in wanted,
        into: %{},
        do: {key, value}
  end

  defp keyed(%Row{} = row), do: {place(row), row}

  defp keyed({:delete, user, {kind, channel}, version}),
    do: {{:delete, {user, kind, channel}}, version}

  defp keyed({:delete, user, version}), do: {{:delete, user}, version}

  # One more, of which only so many are kept as are looked at again.
  defp note(found, what, row) do
    Map.update!(found, what, fn {count, rows} ->
      {count + 1, if(count < @suspects, do: [row | rows], else: rows)}
    end)
  end

  defp rows(batch), do: for(%Row{} = row <- batch, do: row)

  defp place(%Row{user: user, kind: kind, channel: channel}), do: {user, kind, channel}

  # Calls `fun` with the store's module and the store, and again if it fails.
  defp call(%{module: module, store: store, options: options} = opened, fun, pauses \\ @pauses) do
    case {Secret.guard(options, fn -> fun.(module, store) end), pauses} do
      {{:error, _reason}, [pause | pauses]} ->
        Process.sleep(pause)
        call(opened, fun, pauses)

      {result, _pauses} ->
        result
    end
  end

  @spec fail(atom, String.t()) :: no_return
  defp fail(reason, text), do: throw({:copy, reason, text})

  # What stores say for people, without the rest.
  defp text({reason, text}) when is_atom(reason) and is_binary(text), do: text
  defp text({%{__exception__: true} = error, _stack}), do: Exception.message(error)
  defp text(reason), do: inspect(reason)
end
