defmodule ReadStates.Copy.Digest do
  @moduledoc false
  # What a store has, in a few numbers. The digest of all rows is the sum of theirs, so it does not depend on
  # the order in which a store has them. Deletes are counted only: when they are forgotten is up to the store.

  alias ReadStates.Row

  defstruct rows: 0, deletes: 0, users: 0, user: nil, sum: 0

  def new, do: %__MODULE__{}

  # The entries of a user come together.
  def add(digest, entry) do
    user = user(entry)

    digest =
      if user == digest.user, do: digest, else: %{digest | user: user, users: digest.users + 1}

    count(digest, entry)
  end

  defp count(digest, %Row{} = row) do
    counters = for counter <- row.counters, into: <<>>, do: <<counter::32>>

    <<number::256>> =
      :crypto.hash(
        :sha256,
        <<row.user::64, row.kind, row.channel::64, row.version::64, row.writer::64,
          row.last_message_id::64, counters::binary>>
      )

    %{digest | rows: digest.rows + 1, sum: rem(digest.sum + number, 2 ** 256)}
  end

  defp count(digest, _delete), do: %{digest | deletes: digest.deletes + 1}

  defp user(%Row{user: user}), do: user
  defp user(delete), do: elem(delete, 1)

  def entries(%{rows: rows, deletes: deletes}), do: rows + deletes
  def rows(%{rows: rows}), do: rows

  def same?(a, b), do: {a.rows, a.sum} == {b.rows, b.sum}

  def figures(digest) do
    [
      rows: digest.rows,
      deletes: digest.deletes,
      users: digest.users,
      sha256: Base.encode16(<<digest.sum::256>>, case: :lower)
    ]
  end
end
