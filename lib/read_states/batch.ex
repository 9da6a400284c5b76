defmodule ReadStates.Batch do
  @moduledoc """
  What goes to a store in a commit and comes back from it in a load: rows and deletes.

  A store written in Rust passes the binary on as it is. One written in Elixir enumerates the batch,
  entry by entry, and makes one of entries with `new/2`:

      iex> row = %ReadStates.Row{
      ...>   user: 1, kind: 0, channel: 2, version: 3, writer: 4, last_message_id: 5, counters: [6]
      ...> }
      iex> batch = ReadStates.Batch.new([row, {:delete, 1, {0, 9}, 2}, {:delete, 7, 8}], 1)
      iex> Enum.to_list(batch) == [row, {:delete, 1, {0, 9}, 2}, {:delete, 7, 8}]
      true
  """

  alias ReadStates.Row

  # native/engine/src/batch.rs describes the binary.
  @magic "RSB\x01"
  @id_width 8

  @enforce_keys [:binary]
  defstruct @enforce_keys

  @typedoc "A batch; the form of its binary may change from one version of the library to the next."
  @type t :: %__MODULE__{binary: binary}

  @typedoc """
  One entry:

  - `%ReadStates.Row{}` - the read state, with its values at its version;
  - `{:delete, user, {kind, channel}, version}` - the read state is gone, unless it was written above the version;
  - `{:delete, user, version}` - every read state of the user that is not above the version is gone.
  """
  @type entry ::
          Row.t()
          | {:delete, user :: ReadStates.id(), {kind :: 0..255, channel :: ReadStates.id()},
             ReadStates.Store.version()}
          | {:delete, user :: ReadStates.id(), ReadStates.Store.version()}

  @doc """
  Makes a batch of `entries`, whose rows have `counters` counters each (1 to 4).

  Raises `ArgumentError` if `entries` is not enumerable or `counters` not possible, and if an entry is none, naming what is wrong
  with it.

      iex> Enum.count(ReadStates.Batch.new([{:delete, 7, 8}], 1))
      1

      iex> ReadStates.Batch.new([{:delete, 7, -1}], 1)
      ** (ArgumentError) entry {:delete, 7, -1}: version must be an integer from 0 to 2^64 - 1, got: -1
  """
  @spec new(Enumerable.t(), 1..4) :: t
  def new(entries, counters) when counters in 1..4 do
    unless Enumerable.impl_for(entries) do
      raise ArgumentError, "entries must be enumerable, got: #{inspect(entries)}"
    end

    header = <<@magic, @id_width, counters, 0::16>>
    body = Enum.map(entries, &encode(&1, counters))
    %__MODULE__{binary: IO.iodata_to_binary([header | body])}
  end

  def new(_entries, counters) do
    raise ArgumentError, "counters must be an integer from 1 to 4, got: #{inspect(counters)}"
  end

  defp encode(%Row{} = row, counters) do
    check_ids!(row, Map.take(row, [:user, :channel, :version, :writer, :last_message_id]))
    check_kind!(row, row.kind)
    check_counters!(row, row.counters, counters)

    [
      <<0, row.kind, row.user::little-64, row.channel::little-64, row.version::little-64,
        row.writer::little-64, row.last_message_id::little-64>>
      | for(counter <- row.counters, do: <<counter::little-32>>)
    ]
  end

  defp encode({:delete, user, {kind, channel}, version} = entry, _counters) do
    check_ids!(entry, user: user, channel: channel, version: version)
    check_kind!(entry, kind)
    <<1, kind, user::little-64, channel::little-64, version::little-64>>
  end

  defp encode({:delete, user, version} = entry, _counters) do
    check_ids!(entry, user: user, version: version)
    <<2, 0, user::little-64, version::little-64>>
  end

  defp encode(entry, _counters) do
    raise ArgumentError,
          "entry must be a %ReadStates.Row{}, {:delete, user, {kind, channel}, version} or " <>
            "{:delete, user, version}, got: #{inspect(entry)}"
  end

  defp check_ids!(entry, ids) do
    for {name, id} <- ids, not (is_integer(id) and id in 0..0xFFFF_FFFF_FFFF_FFFF) do
      invalid!(entry, name, id, "an integer from 0 to 2^64 - 1")
    end
  end

  defp check_kind!(_entry, kind) when kind in 0..255, do: :ok
  defp check_kind!(entry, kind), do: invalid!(entry, :kind, kind, "an integer from 0 to 255")

  defp check_counters!(entry, counters, count) do
    unless is_list(counters) and List.improper?(counters) == false and
             length(counters) == count and Enum.all?(counters, &(&1 in 0..0xFFFF_FFFF)) do
      invalid!(entry, :counters, counters, "a list of #{count} integers from 0 to 2^32 - 1")
    end
  end

  defp invalid!(entry, name, value, allowed) do
    raise ArgumentError,
          "entry #{inspect(entry)}: #{name} must be #{allowed}, got: #{inspect(value)}"
  end

  defimpl Enumerable do
    def reduce(%{binary: <<"RSB\x01", 8, counters, 0::16, entries::binary>>}, acc, fun)
        when counters in 1..4,
        do: entries(entries, 4 * counters, acc, fun)

    def reduce(_batch, _acc, _fun), do: raise(ArgumentError, "not a batch of this version")

    def count(_batch), do: {:error, __MODULE__}
    def member?(_batch, _entry), do: {:error, __MODULE__}
    def slice(_batch), do: {:error, __MODULE__}

    defp entries(_rest, _size, {:halt, acc}, _fun), do: {:halted, acc}

    defp entries(rest, size, {:suspend, acc}, fun),
      do: {:suspended, acc, &entries(rest, size, &1, fun)}

    defp entries(<<>>, _size, {:cont, acc}, _fun), do: {:done, acc}

    defp entries(rest, size, {:cont, acc}, fun) do
      {entry, rest} = entry(rest, size)
      entries(rest, size, fun.(entry, acc), fun)
    end

    defp entry(
           <<0, kind, user::little-64, channel::little-64, version::little-64, writer::little-64,
             last_message_id::little-64, rest::binary>>,
           size
         )
         when byte_size(rest) >= size do
      <<counters::binary-size(size), rest::binary>> = rest

      row = %ReadStates.Row{
        user: user,
        kind: kind,
        channel: channel,
        version: version,
        writer: writer,
        last_message_id: last_message_id,
        counters: for(<<counter::little-32 <- counters>>, do: counter)
      }

      {row, rest}
    end

    defp entry(
           <<1, kind, user::little-64, channel::little-64, version::little-64, rest::binary>>,
           _size
         ),
         do: {{:delete, user, {kind, channel}, version}, rest}

    defp entry(<<2, _kind, user::little-64, version::little-64, rest::binary>>, _size),
      do: {{:delete, user, version}, rest}

    defp entry(_damaged, _size), do: raise(ArgumentError, "a damaged batch")
  end
end
