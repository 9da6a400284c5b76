defmodule ReadStates.EctoStore do
  @behaviour ReadStates.Store

  alias ReadStates.{Batch, Row}

  @page 10_000
  @hour 3_600_000_000

  # Makes the order of signed numbers that of the unsigned ones with the same bits.
  @unsigned "# '-9223372036854775808'::bigint"

  @impl true
  def open(opts, %{counters: counters}) do
    repo = opts[:repo] || raise ArgumentError, "repo must be given"

    case repo.query("SELECT number FROM read_states_notes WHERE name = 'floor'", []) do
      {:ok, %{rows: [[floor]]}} ->
        store = %{repo: repo, counters: length(counters), closed: :atomics.new(1, [])}
        {:ok, store, unsigned(floor)}

      {:ok, %{rows: []}} ->
        {:error, :no_floor}

      {:error, error} ->
        {:error, error}
    end
  end

  # Several instances may write to it, each for users of its own.
  @impl true
  def shared?(_store), do: true

  # The repo is the application's, and goes on.
  @impl true
  def close(store), do: :atomics.put(store.closed, 1, 1)

  defp unless_closed(store, fun) do
    if :atomics.get(store.closed, 1) == 0, do: fun.(), else: {:error, :closed}
  end

  @impl true
  def load(store, users, cursor) do
    page(store, cursor, ~s|"user" = ANY($5::bigint[])|, [Enum.map(users, &signed/1)])
  end

  @impl true
  def scan(store, cursor), do: page(store, cursor, "TRUE", [])

  # Rows, unless they are below a delete, and deletes, in the order of places.
  defp page(store, cursor, condition, params) do
    here = ~s|("user", kind, channel) >= ($1::bigint, $2::smallint, $3::bigint) AND #{condition}|
    counters = columns(store, &"counter_#{&1}")

    # In each of the two too, or the server would read them to their end. One may be of the page before.
    some = ~s|ORDER BY "user", kind, channel LIMIT #{@page + 1}|

    sql = """
    SELECT * FROM (
      (SELECT "user", kind, channel, 1 AS part, version, writer, last_message_id, #{counters}
      FROM read_states AS s WHERE #{here} AND NOT EXISTS (
        SELECT FROM read_states_deletes AS d
        WHERE d."user" = s."user" AND (d.kind = -1 OR (d.kind = s.kind AND d.channel = s.channel))
          AND (d.version #{@unsigned}) >= (s.version #{@unsigned}))
      #{some})
      UNION ALL
      (SELECT "user", kind, channel, 0, version, NULL, NULL, #{columns(store, fn _ -> "NULL" end)}
      FROM read_states_deletes WHERE #{here} #{some})) AS e
    WHERE ("user", kind, channel, part) > ($1, $2, $3, $4::integer)
    ORDER BY "user", kind, channel, part LIMIT #{@page}
    """

    {user, kind, channel, part} = cursor || {-0x8000_0000_0000_0000, -2, 0, 0}

    params = [user, kind, channel, part | params]

    with {:ok, %{rows: rows}} <- unless_closed(store, fn -> store.repo.query(sql, params) end) do
      {:ok, Batch.new(Enum.map(rows, &entry/1), store.counters), next(rows)}
    end
  end

  defp next(rows) when length(rows) < @page, do: nil
  defp next(rows), do: rows |> List.last() |> Enum.take(4) |> List.to_tuple()

  defp entry([user, -1, _channel, 0, version | _nothing]) do
    {:delete, unsigned(user), unsigned(version)}
  end

  defp entry([user, kind, channel, 0, version | _nothing]) do
    {:delete, unsigned(user), {kind, unsigned(channel)}, unsigned(version)}
  end

  defp entry([user, kind, channel, 1, version, writer, last_message_id | counters]) do
    %Row{
      user: unsigned(user),
      kind: kind,
      channel: unsigned(channel),
      version: unsigned(version),
      writer: unsigned(writer),
      last_message_id: unsigned(last_message_id),
      # Those that were appended later are null.
      counters: for(counter <- counters, do: unsigned32(counter || 0))
    }
  end

  @impl true
  def commit(store, batch) do
    # The newest of each place, in an order that all commits have in common.
    newest =
      batch
      |> Enum.group_by(&place/1)
      |> Enum.sort()
      |> Enum.map(fn {_place, entries} -> Enum.max_by(entries, &version/1) end)

    {rows, deletes} = Enum.split_with(newest, &is_struct(&1, Row))

    write = fn ->
      write_deletes(store, deletes)
      write_rows(store, rows)
    end

    # Before, and not in the transaction, in which all commits would wait for each other. It may be too high, not too low.
    with {:ok, _} <- unless_closed(store, fn -> raise_floor(store, newest) end),
         {:ok, _} <- unless_closed(store, fn -> store.repo.transaction(write) end),
         do: :ok
  end

  defp write_rows(_store, []), do: :ok

  defp write_rows(store, rows) do
    fields = [:kind, :channel, :version, :writer, :last_message_id]
    [kinds | ids] = for field <- fields, do: Enum.map(rows, &signed(Map.fetch!(&1, field)))
    users = Enum.map(rows, &signed(&1.user))

    counters =
      for n <- 1..store.counters, do: Enum.map(rows, &signed32(Enum.at(&1.counters, n - 1)))

    store.repo.query!(
      """
      INSERT INTO read_states AS s
        ("user", kind, channel, version, writer, last_message_id, #{columns(store, &"counter_#{&1}")})
      SELECT * FROM unnest($1::bigint[], $2::smallint[], $3::bigint[], $4::bigint[], $5::bigint[],
        $6::bigint[], #{columns(store, &"$#{&1 + 6}::integer[]")})
      ON CONFLICT ("user", kind, channel) DO UPDATE SET version = excluded.version,
        writer = excluded.writer, last_message_id = excluded.last_message_id,
        #{sets(store)}
      WHERE (s.version #{@unsigned}) < (excluded.version #{@unsigned})
      """,
      [users, kinds] ++ ids ++ counters
    )
  end

  defp write_deletes(_store, []), do: :ok

  defp write_deletes(store, deletes) do
    highest = deletes |> Enum.map(&version/1) |> Enum.max()
    places = for delete <- deletes, do: Tuple.to_list(place(delete)) ++ [version(delete)]

    params = for column <- Enum.zip(places), do: column |> Tuple.to_list() |> Enum.map(&signed/1)

    given =
      "unnest($1::bigint[], $2::smallint[], $3::bigint[], $4::bigint[]) AS d (\"user\", kind, channel, version)"

    same = ~s(s."user" = d."user" AND s.kind = d.kind AND s.channel = d.channel)
    of_user = ~s(d.kind = -1 AND s.kind <> -1 AND s."user" = d."user")
    below = &"(s.version #{@unsigned}) #{&1} (d.version #{@unsigned})"

    for sql <- [
          # Not where there is a row that is not older: nothing older can take its place.
          """
          INSERT INTO read_states_deletes AS s ("user", kind, channel, version) SELECT d.* FROM #{given}
          WHERE NOT EXISTS (SELECT FROM read_states AS s WHERE #{same} AND #{below.(">=")})
          ON CONFLICT ("user", kind, channel) DO UPDATE SET version = excluded.version
          WHERE (s.version #{@unsigned}) < (excluded.version #{@unsigned})
          """,
          "DELETE FROM read_states AS s USING #{given} WHERE #{of_user} AND #{below.("<=")}",
          "DELETE FROM read_states_deletes AS s USING #{given} WHERE #{of_user} AND #{below.("<=")}",
          "DELETE FROM read_states AS s USING #{given} WHERE #{same} AND #{below.("<")}"
        ] do
      store.repo.query!(sql, params)
    end

    forget(store, highest - @hour, 1_000 + 2 * length(deletes))
  end

  # Deletes that are old enough, and with them what came late: so many at most, but more than a commit brings.
  defp forget(_store, horizon, _most) when horizon < 0, do: :ok

  defp forget(store, horizon, most) do
    store.repo.query!(
      """
      WITH d AS (DELETE FROM read_states_deletes WHERE ctid = ANY(ARRAY(
          SELECT ctid FROM read_states_deletes WHERE version >= 0 AND version < $1::bigint
          ORDER BY version LIMIT $2::bigint FOR UPDATE SKIP LOCKED))
        AND version >= 0 AND version < $1::bigint
        RETURNING "user", kind, channel, version)
      DELETE FROM read_states AS s USING d
      WHERE s."user" = d."user" AND (d.kind = -1 OR (s.kind = d.kind AND s.channel = d.channel))
        AND (s.version #{@unsigned}) <= (d.version #{@unsigned})
      """,
      [min(horizon, 0x7FFF_FFFF_FFFF_FFFF), most]
    )
  end

  defp raise_floor(_store, []), do: {:ok, nil}

  defp raise_floor(store, entries) do
    store.repo.query(
      """
      UPDATE read_states_notes SET number = $1::bigint
      WHERE name = 'floor' AND (number #{@unsigned}) < ($1::bigint #{@unsigned})
      """,
      [entries |> Enum.map(&version/1) |> Enum.max() |> signed()]
    )
  end

  defp columns(store, fun), do: Enum.map_join(1..store.counters, ", ", fun)

  # Those that others have had appended meanwhile are not of this row.
  defp sets(store) do
    Enum.map_join(1..4, ", ", fn n ->
      "counter_#{n} = " <> if(n <= store.counters, do: "excluded.counter_#{n}", else: "NULL")
    end)
  end

  # User, kind and channel as in the tables; the delete of a user comes before all else of that user.
  defp place(%Row{user: user, kind: kind, channel: channel}), do: {user, kind, channel}
  defp place({:delete, user, {kind, channel}, _version}), do: {user, kind, channel}
  defp place({:delete, user, _version}), do: {user, -1, 0}

  defp version(%Row{version: version}), do: version
  defp version({:delete, _user, _channel, version}), do: version
  defp version({:delete, _user, version}), do: version

  # Columns are signed, and have the same bits.
  defp signed(number) do
    <<signed::signed-64>> = <<number::64>>
    signed
  end

  defp unsigned(number) do
    <<unsigned::64>> = <<number::64>>
    unsigned
  end

  defp signed32(number) do
    <<signed::signed-32>> = <<number::32>>
    signed
  end

  defp unsigned32(number) do
    <<unsigned::32>> = <<number::32>>
    unsigned
  end
end
