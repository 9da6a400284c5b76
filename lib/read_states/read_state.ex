defmodule ReadStates.ReadState do
  @moduledoc """
  What one user has read of one channel.

  - `kind` - 0 for a channel, 1 to 255 for what is read like one;
  - `channel` - the id within the kind;
  - `last_message_id` - the message read last, 0 if none;
  - `counters` - the counters by name, for example `%{mention_count: 3}`.
  """

  @enforce_keys [:kind, :channel, :last_message_id, :counters]
  defstruct @enforce_keys

  @type t :: %__MODULE__{
          kind: 0..255,
          channel: ReadStates.id(),
          last_message_id: ReadStates.id(),
          counters: %{atom() => 0..0xFFFFFFFF}
        }

  # One that was found in the engine, see `get` in native/nif/src/engine.rs. `zeros` are counters that are all 0, which most
  # are: made once, as they are the same for all.
  @doc false
  def new(channel, {last, counters}, _zeros), do: new(channel, last, counters)

  def new({kind, channel}, last, counters),
    do: build(__MODULE__, kind, channel, last, counters)

  def new(channel, last, counters), do: build(__MODULE__, 0, channel, last, counters)

  # The engine's list, the last first, see `list_binary` in native/nif/src/engine.rs.
  @doc false
  def from_binary(binary, [counter], zeros), do: one_counter(binary, counter, zeros, [])

  def from_binary(binary, names, zeros) do
    none = :binary.copy(<<0>>, 4 * length(names))
    several_counters(binary, none, names, zeros, [])
  end

  defp one_counter(
         <<kind, channel::native-64, last::native-64, count::native-32, rest::binary>>,
         counter,
         zeros,
         states
       ) do
    counters = if count == 0, do: zeros, else: %{counter => count}
    state = build(__MODULE__, kind, channel, last, counters)
    one_counter(rest, counter, zeros, [state | states])
  end

  defp one_counter(<<>>, _counter, _zeros, states), do: states

  defp several_counters(<<>>, _none, _names, _zeros, states), do: states

  defp several_counters(binary, none, names, zeros, states) do
    size = byte_size(none)

    <<kind, channel::native-64, last::native-64, counts::binary-size(size), rest::binary>> =
      binary

    counters =
      if counts == none,
        do: zeros,
        else: Map.new(Enum.zip(names, for(<<count::native-32 <- counts>>, do: count)))

    state = build(__MODULE__, kind, channel, last, counters)
    several_counters(rest, none, names, zeros, [state | states])
  end

  # With a module that is known to the compiler it would be a change of a map, which takes five times as long.
  defp build(module, kind, channel, last, counters) do
    %{
      __struct__: module,
      kind: kind,
      channel: channel,
      last_message_id: last,
      counters: counters
    }
  end
end
