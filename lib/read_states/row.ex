defmodule ReadStates.Row do
  @moduledoc """
  One read state as a store keeps it.

  - `user` - whose;
  - `kind`, `channel` - of what: kind 0 is a channel, 1 to 255 is what is read like one;
  - `version` - when it was taken, in microseconds since 1970: a store keeps the row with the highest,
    see `ReadStates.Store`;
  - `writer` - a random number of the instance that wrote it, to be kept and given back as it is;
  - `last_message_id` - the message read last, 0 if none;
  - `counters` - the counters, in the order in which the instance is configured with them.

  All but the last two are integers from 0 to 2^64 - 1 (`kind` to 255); a counter is from 0 to 2^32 - 1.
  """

  @enforce_keys [:user, :kind, :channel, :version, :writer, :last_message_id, :counters]
  defstruct @enforce_keys

  @type t :: %__MODULE__{
          user: ReadStates.id(),
          kind: 0..255,
          channel: ReadStates.id(),
          version: ReadStates.Store.version(),
          writer: non_neg_integer(),
          last_message_id: ReadStates.id(),
          counters: [0..0xFFFFFFFF, ...]
        }
end
