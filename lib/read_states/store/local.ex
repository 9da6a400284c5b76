defmodule ReadStates.Store.Local do
  @moduledoc """
  Keeps read states in a directory of the local disk. This is the default store.

      {ReadStates, name: MyApp.ReadStates, store: {ReadStates.Store.Local, path: "data/read_states"}}

  A commit that returned is on disk, and survives `kill -9` and the loss of power. The files are those of
  [fjall](https://docs.rs/fjall), a log-structured store, in the library's own VM; there is no server to run.

  ## Options

  - `:path` (string, required) - the directory. It is made, with its parents, if it is not there. A relative path starts at
    the current directory. It belongs to the instance alone: give each its own.

  ## Errors at start

  `c:ReadStates.Store.open/2`, and so the start of the instance, returns `{:error, {reason, text}}`, where the text is for people
  and names the path, and the reason is one of

  | reason | |
  |---|---|
  | `:in_use` | another instance has the directory open, in this VM or in another |
  | `:not_writable` | the directory cannot be made or written to |
  | `:not_ours` | there is something else, or the store of a version of the library that this one cannot read; or the path is a symbolic link, or a directory that belongs to another user or to which everybody may write. It is left as it is |
  | `:counters_changed` | the instance's counters do not start with those the store was written with, in their order; new ones may only be appended |
  | `:damaged_header` | the file `read_states.json` in it cannot be understood |
  | `:damaged` | a file below `rows` is damaged, or what was committed is missing in it; the text names the file |
  | `:disk_full` | there is no room for a file; what is there is left as it is, and the next start with room has it |
  | `:io` | the operating system refused something else |

  Later calls return `{:error, {:disk_full, text}}` while there is no room, `{:error, {:not_writable, text}}` where the file system has become
  read-only, and `{:error, {:io, text}}` when the operating system refuses something else, and work again as soon as it does not;
  `{:error, :busy}` while nine calls are under way; `{:error, {:damaged, text}}`;
  and `{:error, :closed}` after `c:ReadStates.Store.close/1`.

  Files are merged in the background, on Linux by threads with a niceness 5 above that of the VM: where all cores are taken, most of them is
  left to callers. (The system must not kill who calls `setpriority`, as systemd does with `SystemCallFilter=~@resources`; that it refuses it does
  no harm.) Where writes come faster for long, as while tens of millions of new read states are committed without a pause, a commit merges first, and
  may take a minute; one that waits for it for 30 seconds is `{:error, {:timeout, text}}`. An instance tries again, and its own writes wait
  for none of that.

  Damaged data is never taken for good: a damaged table (a file below `rows/keyspaces/1/tables`) is an error for the users in the damaged
  places, and the others are read; any other damage is found at the start. How many commits are on disk is noted in the file `written`, so that
  it is known when the end of a log (`rows/*.jnl`) is missing. Restore the directory from a backup; to go on without what is missing at the
  end of the newest log, remove `written`. A backup is a copy of the whole directory, of a stopped instance or at one moment. An end that a
  crash has cut off is no damage, because nothing of it was acknowledged.
  """

  @behaviour ReadStates.Store

  alias ReadStates.Native
  alias ReadStates.Store.Handle

  @impl true
  def open(opts, %{counters: counters}) do
    path = path!(ReadStates.Argument.options!(opts, [:path]))
    Native.local_open(Path.expand(path), Enum.map(counters, &Atom.to_string/1))
  end

  defp path!(opts) do
    case opts[:path] do
      path when is_binary(path) and path != "" -> path
      other -> ReadStates.Argument.invalid!(:path, other, "the path of a directory, a string")
    end
  end

  @impl true
  defdelegate load(store, users, cursor), to: Handle

  @doc false
  defdelegate __load_into__(store, load), to: Handle

  @impl true
  defdelegate commit(store, batch), to: Handle

  @impl true
  defdelegate scan(store, cursor), to: Handle

  @impl true
  defdelegate close(store), to: Handle
end
