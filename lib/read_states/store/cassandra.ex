defmodule ReadStates.Store.Cassandra do
  @moduledoc """
  Keeps read states in Cassandra.

  It is written in Rust, on the [`scylla`](https://docs.rs/scylla) driver, in a library of its own, which is built only for an application
  that asks for it in its `config/config.exs`:

      config :read_states, stores: [:cassandra]

  Then

      {ReadStates,
       name: MyApp.ReadStates,
       store:
         {ReadStates.Store.Cassandra,
          contact_points: ["10.0.0.1", "10.0.0.2"], keyspace: "my_app", user: "my_app", password: password},
       journal: [path: "data/journal"]}

  Without `:journal` what is not committed is lost with the VM.

  The tables are made by `mix read_states.cassandra.setup`, or by `set_up/1` in a release. The guide [Cassandra](cassandra.md) has them, what they
  take on disk, what Cassandra itself may lose, and what two instances may do at the same time.

  Tested with Cassandra 5.0. ScyllaDB speaks the same protocol, and the driver is its own, but nobody has tested that.

  ## Options

  - `:contact_points` (list of strings, default `["127.0.0.1"]`) - host or `host:port` of some nodes, from which the others are learnt.
    Name more than one, so that one may be down at the start.
  - `:keyspace` (string, default `"read_states"`) - at most 42 small letters, digits and underscores.
  - `:table` (string, such a one, default `"read_states"`) - the table of the read states; beside it is one with `_notes` appended. Two instances
    with different counters need a table each.
  - `:consistency` (a level, or `[read: level, write: level]`; default `:local_quorum`) - how many replicas a load has to hear of, and a
    commit: `:one`, `:two`, `:three`, `:quorum`, `:all`, `:local_one`, `:local_quorum` and, to write, `:each_quorum`. A combination
    with which a load may miss a commit is refused, because an instance would count on from old values: at three replicas `:one` for
    both, for example. So is a level that asks for more replicas than there are.
  - `:datacentre` (string) - ask only nodes of this one. Needed where the keyspace has replicas in more than one: all nodes of an application
    that may own a user after each other must name the same one.
  - `:user`, `:password` (strings) - where the cluster asks for them. The user needs the rights `SELECT` and `MODIFY` on both tables.
  - `:tls` (`true` or a keyword list) - an encrypted connection to nodes that show a certificate:
    - `:cacertfile` - a PEM file of certificates, one of which has signed the nodes'. By default those that the system trusts.
    - `:certfile`, `:keyfile` - the application's own certificate and its key, in PEM files, for nodes that ask for one.
    - `:verify_host` (default `true`) - whether a node's certificate must name its IP address.
  - `:timeout` (milliseconds, at most 30,000, default 5,000) - how long a request waits for its answer, before it is tried again, up to three times.
  - `:replication_factor` (1 to 100, default 3) - of a keyspace that `mix read_states.cassandra.setup` or `set_up/1` makes. One that is there is left as it is.

  ## Errors at start

  `c:ReadStates.Store.open/2`, and so the start of the instance, returns `{:error, {reason, text}}`, where the text is for people and names
  the option, and the reason is one of

  | reason | |
  |---|---|
  | `:not_built` | the library is not there; the text says how to get it |
  | `:not_loaded` | the library is there and cannot be loaded, for example on another system than the one it was built for |
  | `:unreachable` | nobody answers at the contact points |
  | `:access_denied` | wrong user or password, or none where they are asked for, or a user who may not read or write a table |
  | `:tls` | a certificate does not fit, or a file of one cannot be read |
  | `:missing` | there is no such keyspace or table |
  | `:not_ours` | the table is another one, or of a version of the library that this one cannot read, or it forgets: it has a `default_time_to_live`, or a `gc_grace_seconds` below 3,600 |
  | `:counters_changed` | the instance's counters do not start with those the table was written with, in their order; new ones may only be appended |
  | `:consistency` | with these levels, and the keyspace's replicas, a load may miss a commit, or can never be done |
  | `:invalid_option` | the datacentre has no replicas, or is not named and there is more than one |
  | `:server`, `:timeout` | the cluster answers with an error, or too late |
  | `:panic` | a defect of the store |

  Later calls return `:server`, `:timeout`, `:panic`, `:unreachable`, `:access_denied` and `:not_ours` in the same way, and `{:error, :busy}` while 64 calls
  are under way, and `{:error, :closed}` after `c:ReadStates.Store.close/1`.
  """

  @behaviour ReadStates.Store

  alias ReadStates.Argument
  alias ReadStates.Store.{Remote, TLS}

  defmodule Native do
    @moduledoc false
    # native/cassandra.
    use ReadStates.Store.Remote, store: :cassandra, library: "read_states_cassandra"
  end

  @defaults [
    contact_points: ["127.0.0.1"],
    keyspace: "read_states",
    table: "read_states",
    consistency: :local_quorum,
    datacentre: nil,
    user: nil,
    password: nil,
    tls: nil,
    timeout: 5_000,
    replication_factor: 3
  ]

  @read_levels [:one, :two, :three, :quorum, :all, :local_one, :local_quorum]
  @write_levels @read_levels ++ [:each_quorum]

  @impl true
  def open(opts, context), do: Remote.open(Native, fields!(opts), context)

  @impl true
  def load(store, users, cursor), do: Remote.load(Native, store, users, cursor)

  @impl true
  def commit(store, batch), do: Remote.commit(Native, store, batch)

  @impl true
  def scan(store, cursor), do: Remote.scan(Native, store, cursor)

  @impl true
  def shared?(_store), do: true

  @impl true
  def close(store), do: Remote.close(Native, store)

  # A load is many small requests, each of which takes its time, and holds no thread meanwhile.
  @impl true
  def loads_at_once, do: 4

  @doc false
  def schema(opts), do: Remote.schema(Native, fields!(opts))

  @doc """
  Makes what a store needs and is not there yet: the keyspace, the table of the read states, and that of the notes.

  `mix read_states.cassandra.setup` does the same. This is for a release, where there is no Mix; nothing has to be started for it. With a module
  of the application

      defmodule MyApp.Release do
        def set_up_read_states do
          :ok =
            ReadStates.Store.Cassandra.set_up(
              contact_points: ["10.0.0.1", "10.0.0.2"],
              keyspace: "my_app",
              user: "my_app",
              password: System.fetch_env!("CASSANDRA_PASSWORD")
            )
        end
      end

  it is

      bin/my_app eval "MyApp.Release.set_up_read_states()"

  at each deployment, from one place and not from several at the same time.

  `opts` (keyword list) are the options of the store, all of them optional. Of what is there nothing is changed or asked for, so that the user
  needs a right to make something (`CREATE`, on all keyspaces or on this one) only where something is made.

  Returns `:ok`, or `{:error, {reason, text}}` as the start of an instance does, see [above](#module-errors-at-start): `:timeout` after
  55 seconds at most. Raises `ArgumentError` for an option that is unknown or of a wrong value.
  """
  @spec set_up(keyword) :: :ok | {:error, {atom, String.t()}}
  def set_up(opts), do: Remote.set_up(Native, fields!(opts))

  defp fields!(opts) do
    Argument.options!(opts, Keyword.keys(@defaults))
    opts = Keyword.merge(@defaults, opts)
    Enum.each(opts, fn {name, value} -> check!(name, value) end)
    check_user!(opts[:user], opts[:password])
    {read, write} = levels(opts[:consistency])

    opts
    |> Keyword.delete(:consistency)
    |> Keyword.put(:tls, TLS.fields(opts[:tls]))
    |> Map.new()
    |> Map.merge(%{read: Atom.to_string(read), write: Atom.to_string(write)})
  end

  defp check!(:contact_points, nodes) do
    unless is_list(nodes) and nodes != [] and not List.improper?(nodes) and
             Enum.all?(nodes, &(&1 != "" and Argument.text?(&1))) do
      Argument.invalid!(:contact_points, nodes, "a list of strings in UTF-8, host or host:port")
    end
  end

  defp check!(name, value) when name in [:keyspace, :table] do
    # The table of the notes has a longer name.
    unless is_binary(value) and value =~ ~r/\A[a-z][a-z0-9_]{0,41}\z/ do
      Argument.invalid!(name, value, "a string of at most 42 of a-z, 0-9 and _, a letter first")
    end
  end

  defp check!(:consistency, value) do
    {read, write} = levels(value)

    unless read in @read_levels and write in @write_levels do
      Argument.invalid!(
        :consistency,
        value,
        "one of #{inspect(@read_levels)}, or [read: one of them, write: one of them or :each_quorum]"
      )
    end
  end

  defp check!(:datacentre, value) do
    unless value == nil or (value != "" and Argument.text?(value)) do
      Argument.invalid!(:datacentre, value, "the name of one, a string in UTF-8")
    end
  end

  # Their values are not shown.
  defp check!(name, value) when name in [:user, :password] do
    unless value == nil or Argument.text?(value),
      do: raise(ArgumentError, "#{name} must be a string in UTF-8")
  end

  defp check!(:tls, value), do: TLS.check!(value)

  defp check!(:timeout, value), do: Argument.integer!(:timeout, value, 1, 30_000)

  defp check!(:replication_factor, value),
    do: Argument.integer!(:replication_factor, value, 1, 100)

  defp check_user!(user, password) do
    if is_nil(user) != is_nil(password) do
      raise ArgumentError, "user and password must be given together"
    end
  end

  defp levels(read: read, write: write), do: {read, write}
  defp levels(write: write, read: read), do: {read, write}
  defp levels(level), do: {level, level}
end
