defmodule ReadStates.Native do
  @moduledoc false
  # The one place where Elixir meets Rust: `native/nif`. Nothing here checks its arguments;
  # `ReadStates` does.

  @on_load :load_library

  @doc false
  def load_library, do: ReadStates.Library.loaded(load_nif())

  def load_nif do
    :read_states
    |> Application.app_dir("priv/native/read_states_nif")
    |> String.to_charlist()
    |> :erlang.load_nif(0)
  end

  # See ReadStates.Library.
  def available, do: unloaded()

  # A map as serde reads it, with strings for keys.
  def fields(map), do: Map.new(map, fn {key, value} -> {Atom.to_string(key), value} end)

  # The engine: operations. Each answers :ok, :unsynced, :wake, :overloaded, :closed, :disk_full or
  # :journal_failed. Those that take ids as they come, which is the fast way, answer :invalid if one
  # is none. Those that take a list may also answer :long, and then their twin on a dirty scheduler
  # is to be called, or :not_a_list, :too_long or {:element, index}.
  def new(_fields, _counters, _journal, _sync), do: unloaded()
  def ack(_engine, _user, _channel, _message), do: unloaded()
  def add(_engine, _user, _channel, _message, _counter, _by, _down), do: unloaded()

  def add_many(_engine, _users, _kind, _channel, _message, _counter, _by, _down),
    do: unloaded()

  def add_many_long(_engine, _users, _kind, _channel, _message, _counter, _by, _down),
    do: unloaded()

  def put(_engine, _user, _kind, _channel, _message, _counters), do: unloaded()
  def delete(_engine, _user, _kind, _channel), do: unloaded()
  def delete_user(_engine, _user), do: unloaded()
  def update(_engine, _operations), do: unloaded()
  def update_long(_engine, _operations), do: unloaded()

  # The engine: reads. Each answers the value, {:absent, partition}, :overloaded or :long.
  def get(_engine, _user, _channel), do: unloaded()
  def total(_engine, _user, _counter), do: unloaded()
  def total_long(_engine, _user, _counter), do: unloaded()
  def list(_engine, _user, _after, _limit, _nonzero), do: unloaded()
  def list_long(_engine, _user, _after, _limit, _nonzero), do: unloaded()

  # The engine: upkeep.
  def want(_engine, _users), do: unloaded()
  def absent(_engine, _users), do: unloaded()
  def load_queue(_engine), do: unloaded()
  def attend(_engine), do: unloaded()
  def wants_dirty_memory(_engine), do: unloaded()
  def make_due(_engine), do: unloaded()
  def wants_commits(_engine), do: unloaded()
  def tidy(_engine), do: unloaded()
  def close(_engine, _closed), do: unloaded()
  def is_closed(_engine), do: unloaded()
  def resize(_engine, _fields), do: unloaded()
  def stats(_engine, _template), do: unloaded()

  # Loads.
  def begin_load(_engine, _partition, _most, _awaited), do: unloaded()
  def add_page(_load, _batch), do: unloaded()
  def finish_load(_load), do: unloaded()
  def load_from(_load, _store, _limit), do: unloaded()
  def part_load(_load, _users), do: unloaded()
  def fail_load(_load), do: unloaded()

  # Commits.
  def begin_commit(_engine, _partition, _most), do: unloaded()
  def write_ahead(_commit), do: unloaded()
  def commit_succeeded(_commit), do: unloaded()
  def commit_failed(_commit), do: unloaded()
  def flush(_engine, _partition), do: unloaded()
  def is_flushed(_engine, _partition, _flush), do: unloaded()

  # The journal.
  def journal_open(_path, _segment, _most, _owner, _exact), do: unloaded()
  def journal_drop(_journal), do: unloaded()
  def recover(_engine), do: unloaded()
  def recover_more(_engine), do: unloaded()
  def is_recovering(_engine), do: unloaded()
  def tend_journal(_engine), do: unloaded()
  def sync_journal(_engine), do: unloaded()
  def close_journal(_engine), do: unloaded()

  # Stores.
  def memory_new, do: unloaded()
  def memory_open(_data, _counters), do: unloaded()
  def local_open(_path, _counters), do: unloaded()
  def store_load(_store, _users, _cursor, _limit), do: unloaded()
  def store_scan(_store, _cursor, _limit), do: unloaded()
  def store_commit(_store, _batch), do: unloaded()
  def store_close(_store), do: unloaded()

  defp unloaded, do: :erlang.nif_error(:nif_not_loaded)
end
