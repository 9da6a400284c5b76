defmodule ReadStates.Store do
  @moduledoc """
  Where read states are kept when they are not in memory: the behaviour of a store.

  `ReadStates.Store.Local` keeps them in files, `ReadStates.Store.Postgres` in PostgreSQL, `ReadStates.Store.Cassandra` in Cassandra,
  and `ReadStates.Store.Memory` in memory, for tests. `ReadStates.Store.Both` is two of them, to move from one to the other. The guide
  [Writing a store](writing_a_store.md) shows one written in Elixir, and the tests that every store must pass;
  [On your own Ecto repo](ecto.md) another.

  A store knows read states as *entries* (`t:ReadStates.Batch.entry/0`): rows, deletes of one read state, and deletes
  of a user. They come in batches, which are enumerable.

  ## The version rule

  Every entry has a version. Versions grow with time, but entries do not come in their order: a commit may be late,
  come twice, or be cut off by a crash and come again. So **an entry applies only if its version is above what the store
  has for that read state**, which is the highest of

  - the version of the row,
  - the version of the delete of this read state,
  - the version of the delete of the user.

  An equal version is the same write come again, and changes nothing. The delete of a user removes the user's rows whose
  version is not above its own, and leaves the others.

  For this, a store must remember deletes: after the commit of a row at version 1 and of a delete at version 3, a row at
  version 2 is late, and must not come back to life. A delete has to be remembered for longer than a commit can be late.
  An instance gives a commit up after a minute and stamps the next try anew, so that is some minutes: ten will do, an hour
  is ample (versions are microseconds since 1970; if the clock was set back, versions lag behind time, and deletes are
  remembered longer). In a store that one instance owns, none need survive a start. In one
  that several share (`c:shared?/1`) they have to, because the commits of the others go on; and where the clocks of these
  differ, by so much longer.

  The entries of one batch may be of the same user and even of the same read state, in any order. The rule sorts them out.

  ## Who calls when

  `c:open/2` is called once, before anything else. `c:load/3`, `c:commit/2` and `c:scan/2` are called from short-lived
  processes, several at a time. Mostly they concern different users, but a call that was given up may still be under
  way when it is tried again, and a user can be deleted while being loaded. When a commit, or all pages of a load together,
  take longer than a minute, their process is killed. The process that called `c:open/2` may be killed too, and its successor
  goes on with the same `t:t/0`: a store must not be linked to it.

  `c:close/1` is called when the instance stops, after all other calls.

  An error of a store is never fatal: loads and commits are tried again, with growing pauses. When a load of several users
  fails, each is tried alone, so that a user whom the store cannot read does not hold up the others. When a commit fails, it
  is tried with one entry, and after each success with four times as many. So if the store refuses one entry, or cannot
  write so many in time, the others wait for seconds only. What a store refuses for ever stays in the journal, if there is
  one, and may fill it.

  ## Passwords

  The options of a store, and what `c:open/2` makes of them, are not shown where the instance is: not in its
  specification as a child, nor in the states of its processes, which a crash reports. In what a store says of a failure
  (an error, an exception, its arguments), in the log and in events, this is replaced by `[hidden]`: the strings of options
  whose name has `pass`, `pwd`, `secret`, `token`, `credential`, `auth`, `cookie`, `apikey`, `accesskey`, `privatekey`,
  `url`, `uri` or `dsn` in it (capitals, `_` and `-` make no difference: `:api_key` is one too), and the password of every
  address. An option with a secret should have such a name, and one without should not: its value is replaced wherever it
  appears. What processes of the store itself log is up to the store.
  """

  @typedoc "What `c:open/2` returns: whatever the store needs to find its data."
  @type t :: term

  @typedoc "Microseconds since 1970, from 0 to 2^64 - 1: when something was written. Unique for each write to a read state."
  @type version :: non_neg_integer

  @typedoc "Where the next page starts: whatever the store likes, except nil."
  @type cursor :: term

  @typedoc "What the instance is called, and its counters in the order in which rows have them."
  @type context :: %{name: atom, counters: [atom, ...]}

  @doc """
  Opens the store.

  Returns its floor: the highest version it has ever seen, or 0 if it cannot know, and never more than 2^61. The instance
  stamps everything above it, even if its clock is behind. With 0, deleting a user who is not in memory relies on the clock
  alone. And an instance whose journal knows of earlier commits logs that the store lacks them, since a store that has lost
  everything also reports 0.

  Raises `ArgumentError` if `opts` are wrong, and returns an error if they are right, but the store cannot be opened.
  """
  @callback open(opts :: keyword, context) ::
              {:ok, t, floor :: version} | {:error, reason :: term}

  @doc """
  Reads one page of what there is of `users`: every row, and every delete that is remembered, each with its version.

  The first page has the cursor nil; the last page returns nil for the next. A page should not have many more than
  10,000 entries, because a user may have 100,000. Entries may come in any order, and pages may be empty. Users that
  do not exist have no entries.
  """
  @callback load(t, users :: [ReadStates.id()], cursor | nil) ::
              {:ok, ReadStates.Batch.t(), cursor | nil} | {:error, reason :: term}

  @doc """
  Writes a batch under the version rule.

  When it returns `:ok`, what it wrote is as durable as the store can make it. If the store can, it writes all of
  a batch or nothing; otherwise an error or a crash may leave a part, and the batch is committed again.
  """
  @callback commit(t, ReadStates.Batch.t()) :: :ok | {:error, reason :: term}

  @doc """
  Reads one page of everything, as `c:load/3` does of some users. The entries of one user come one after the other.

  For tools that look at all the data. What is committed meanwhile may or may not be seen.
  """
  @callback scan(t, cursor | nil) ::
              {:ok, ReadStates.Batch.t(), cursor | nil} | {:error, reason :: term}

  @doc """
  Whether other instances write to the same data, each for users of its own. If so, versions that the instance's journal does
  not know of are theirs. If not, an instance whose journal has something in it does not start when the store has been
  written to without that journal.

  Optional; a store without it belongs to one instance.
  """
  @callback shared?(t) :: boolean

  @doc """
  How many calls of `c:load/3` may be under way at the same time, for each of the two halves of the users: 2 without it.

  A store on a network that is far away may say more. Beside these there is one call at a time for users whose load has failed.
  """
  @callback loads_at_once() :: pos_integer

  @optional_callbacks shared?: 1, loads_at_once: 0

  @doc """
  Lets go of everything the store holds. Calls that come later return errors, and the data can be opened again.
  """
  @callback close(t) :: :ok
end
