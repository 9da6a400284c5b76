defmodule ReadStates.Telemetry do
  @moduledoc """
  Events an instance emits through `:telemetry`, if the application has it.

  No event is emitted for a single operation: an operation takes less time than an event would.
  Evictions and refused writes are counted and reported about once a second.

  | event | measurements | metadata |
  | --- | --- | --- |
  | `[:read_states, :load]` | `duration`, `users`, `entries` | `name`, `result` |
  | `[:read_states, :commit]` | `duration`, `users`, `entries` | `name`, `result` |
  | `[:read_states, :evict]` | `users`, `states` | `name` |
  | `[:read_states, :overload]` | `refused`, `dirty_memory` | `name` |

  - `duration` - of the store's part, in native time units (see `System.convert_time_unit/3`);
  - `users` - users loaded, committed or evicted; `states` - read states evicted with them;
  - `entries` - rows and deletes read from the store or written to it;
  - `refused` - writes that returned `{:error, :overloaded}` since the last such event, and
    `dirty_memory` - bytes of users with something uncommitted, now;
  - `name` - the instance; `result` - `:ok` or `{:error, reason}` with the store's reason.

      :telemetry.attach("read-states-commits", [:read_states, :commit], &MyApp.Metrics.handle/4, nil)
  """

  @compile {:no_warn_undefined, :telemetry}

  @doc false
  def execute(%{telemetry: true, name: name}, event, measurements, metadata) do
    :telemetry.execute([:read_states, event], measurements, Map.put(metadata, :name, name))
  end

  def execute(_instance, _event, _measurements, _metadata), do: :ok
end
