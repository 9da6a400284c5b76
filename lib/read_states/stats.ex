defmodule ReadStates.Stats do
  @moduledoc """
  Figures of an instance, at a glance. All are integers; counts are since the engine was started.

  - `users`, `states`, `channels` - resident users, their read states, and the channels of these;
  - `dirty_users` - users with something uncommitted;
  - `pending_operations` - operations on users who are not resident;
  - `load_queue` - users waiting to be loaded;
  - `memory`, `dirty_memory` - bytes: of everything, and of users with something uncommitted;
  - `reusable_memory` - bytes that evicted users have left for those to come, and up to 4 MB that are kept ready for them. It
    is of all instances in the VM together, and not part of `memory`;
  - `journal_size` - bytes of the journal's files, 0 without a journal;
  - `capacity`, `max_memory`, `max_dirty_memory`, `max_journal_size` - the bounds on `states`, `memory`, `dirty_memory`
    and `journal_size`;
  - `hits`, `misses` - reads of users who were resident, and reads that waited for a load. A read that was refused with
    `{:error, :overloaded}`, because too many users wait to be loaded, is a miss;
  - `loads`, `evictions` - users loaded, and users evicted; `evicted_states` - their read states;
  - `commits`, `committed_entries` - batches committed, and the rows and deletes in them;
  - `overloads` - writes refused with `{:error, :overloaded}`, because `dirty_memory` or `journal_size` would have passed its
    bound. Writes refused with another error, and reads, are not counted.
  """

  alias ReadStates.Native

  @fields [
    :users,
    :states,
    :channels,
    :dirty_users,
    :pending_operations,
    :load_queue,
    :memory,
    :dirty_memory,
    :reusable_memory,
    :journal_size,
    :capacity,
    :max_memory,
    :max_dirty_memory,
    :max_journal_size,
    :hits,
    :misses,
    :loads,
    :evictions,
    :evicted_states,
    :commits,
    :committed_entries,
    :overloads
  ]

  defstruct Enum.map(@fields, &{&1, 0})

  @type t :: %__MODULE__{unquote_splicing(Enum.map(@fields, &{&1, quote(do: non_neg_integer())}))}

  # The engine fills in the struct, whose keys are atoms that exist.
  @doc false
  def of(engine), do: Native.stats(engine, %__MODULE__{})
end
