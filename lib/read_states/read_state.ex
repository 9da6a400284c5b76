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

  # One that was found in the engine.
  @doc false
  def new({kind, channel}, {last, counters}) do
    %__MODULE__{kind: kind, channel: channel, last_message_id: last, counters: counters}
  end

  def new(channel, found), do: new({0, channel}, found)

  # The engine's list, see `list_binary` in native/nif/src/engine.rs.
  @doc false
  def from_binary(binary, [counter]) do
    # That of most read states, made once.
    none = %{counter => 0}

    for <<kind, channel::native-64, last::native-64, count::native-32 <- binary>> do
      %__MODULE__{
        kind: kind,
        channel: channel,
        last_message_id: last,
        counters: if(count == 0, do: none, else: %{counter => count})
      }
    end
  end

  def from_binary(binary, names) do
    size = 4 * length(names)

    for <<kind, channel::native-64, last::native-64, counts::binary-size(size) <- binary>> do
      counts = for <<count::native-32 <- counts>>, do: count

      %__MODULE__{
        kind: kind,
        channel: channel,
        last_message_id: last,
        counters: Map.new(Enum.zip(names, counts))
      }
    end
  end
end
