defmodule ReadStates.Telemetry do
  @moduledoc """
  Events an instance emits through `:telemetry`, if the application has it.

  No event is emitted for a single operation: an operation takes less time than an event would.
  Evictions and refused writes are counted and reported about once a second.

  Not everything that goes wrong is an event. Writes refused with `:disk_full` or `:journal_failed`, and reads refused
  because too many users wait to be loaded, are seen in what the calls return; a sync of the journal that fails, and bytes
  of it that are damaged, in the log.

  | event | measurements | metadata |
  | --- | --- | --- |
  | `[:read_states, :load]` | `duration`, `users`, `entries` | `name`, `result` |
  | `[:read_states, :commit]` | `duration`, `users`, `entries` | `name`, `result` |
  | `[:read_states, :evict]` | `users`, `states` | `name` |
  | `[:read_states, :overload]` | `refused`, `dirty_memory` | `name` |

  - `duration` - from the start of the task that calls the store to its end, in native time units (see
    `System.convert_time_unit/3`). A load's has the merge into memory in it, a commit's the sync of the journal before it;
  - `users` - users loaded, committed or evicted, and where the result is an error, those that were tried; `states` - read
    states evicted with them;
  - `entries` - rows and deletes read from the store or written to it. Of a load that failed it is 0, of a commit that
    failed how many were tried;
  - `refused` - writes that returned `{:error, :overloaded}` since the last such event, and
    `dirty_memory` - bytes of users with something uncommitted, now;
  - `name` - the instance; `result` - `:ok` or `{:error, reason}`. The reason is the store's own, or one of

  | reason | |
  | --- | --- |
  | `:timeout` | the call was given up after a minute |
  | `:stale` | the answer came after the load or commit had been given up |
  | `{:journal, text}` | the journal could not be synced before the commit |
  | `{:exit, reason}` | the task, or a process that the store called, has exited |
  | `{exception, stacktrace}`, `{:throw, value}` | the store has raised, or thrown |
  | `{:bad_return, term}` | the store has returned something that is no answer |
  | a string | a page of the store has something in it that cannot be |

  Handlers run in the process that loads, commits or looks after the instance, so they must be quick, and call no function of
  `ReadStates` for it: `ReadStates.commit/1` would wait for itself.

  As a tag of a metric take whether `result` is `:ok`: reasons have texts, paths and stack traces in them.

      :telemetry.attach("read-states-commits", [:read_states, :commit], &MyApp.Metrics.handle/4, nil)
  """

  @compile {:no_warn_undefined, :telemetry}

  @doc false
  def execute(%{telemetry: true, name: name}, event, measurements, metadata) do
    :telemetry.execute([:read_states, event], measurements, Map.put(metadata, :name, name))
  end

  def execute(_instance, _event, _measurements, _metadata), do: :ok
end
