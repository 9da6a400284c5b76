defmodule Mix.Tasks.ReadStates.Cassandra.SetupTest do
  # Not async: the password is in the environment of the whole VM.
  use ExUnit.Case, async: false

  import ExUnit.CaptureIO

  alias Mix.Tasks.ReadStates.Cassandra.Setup
  alias ReadStates.{CQL, Services}
  alias ReadStates.Store.Cassandra

  setup do
    on_exit(fn -> System.delete_env("CASSANDRA_PASSWORD") end)
  end

  defp run(args), do: capture_io(fn -> Setup.run(args) end)

  test "prints the statements" do
    assert run(["--print", "--keyspace", "chat", "--table", "states", "--datacentre", "x"]) == """
           CREATE KEYSPACE IF NOT EXISTS "chat" WITH replication = {'class': 'NetworkTopologyStrategy', 'x': 3};
           CREATE TABLE IF NOT EXISTS "chat"."states" (user bigint, kind tinyint, channel bigint, state blob, PRIMARY KEY (user, kind, channel)) WITH compaction = {'class': 'LeveledCompactionStrategy'};
           CREATE TABLE IF NOT EXISTS "chat"."states_notes" (name text PRIMARY KEY, value blob);
           """
  end

  test "says in one line what is wrong with its arguments" do
    for {args, message} <- [
          {["--keyspace", "No"], ~r/^keyspace must be a string of at most 42 of a-z/},
          {["--keyspaces", "a"], ~r/^--keyspaces: unknown/},
          {["--timeout", "a"], ~r/^--timeout: unknown, or a wrong value/},
          {["chat"], ~r/^there is more than the options/},
          {["--cacertfile", "a"], ~r/^--cacertfile: only with --tls/},
          {["--user", "a"], ~r/^--user: its password is to be in CASSANDRA_PASSWORD/},
          {["--contact-points", "127.0.0.1:1"], ~r/^contact_points: none of 127.0.0.1:1 answers/}
        ] do
      assert_raise Mix.Error, message, fn -> Setup.run(args) end
    end
  end

  @tag :cassandra
  test "makes what is missing, and leaves what is there" do
    [point] = String.split(Services.endpoints("cassandra")["contact_points"], ",")
    cql = CQL.connect!(point)
    CQL.run!(cql, "DROP KEYSPACE IF EXISTS read_states_setup")
    context = %{name: __MODULE__, counters: [:mention_count]}

    opts = [
      contact_points: [point],
      keyspace: "read_states_setup",
      table: "states",
      timeout: 20_000
    ]

    open = fn -> Cassandra.open(opts, context) end
    assert {:error, {:missing, text}} = open.()

    assert text ==
             "keyspace: there is no keyspace read_states_setup; `mix read_states.cassandra.setup` makes it, " <>
               "or `ReadStates.Store.Cassandra.set_up/1` where there is no Mix"

    args = ~w(--keyspace read_states_setup --table states --replication-factor 1 --timeout 20000)
    said = "keyspace read_states_setup has the tables states and states_notes\n"
    assert run(["--contact-points", point | args]) == said
    assert {:ok, store, 0} = open.()
    batch = ReadStates.Batch.new([{:delete, 7, 8}], 1)
    :ok = Cassandra.commit(store, batch)
    :ok = Cassandra.close(store)

    assert run(["--contact-points", point | args]) == said
    assert {:ok, store, 8} = open.()
    :ok = Cassandra.close(store)

    CQL.run!(cql, "DROP TABLE read_states_setup.states")

    assert {:error, {:missing, "table: there is no table read_states_setup.states" <> _}} =
             open.()

    CQL.run!(cql, "DROP KEYSPACE read_states_setup")
    CQL.close(cql)
  end

  @tag :cassandra_secure
  test "with a user, his password and TLS, and does not show the password" do
    %{"contact_points" => point} = endpoints = Services.endpoints("cassandra-secure")

    args =
      ~w(--contact-points #{point} --replication-factor 1 --user #{endpoints["user"]} --timeout 20000)

    tls =
      ~w(--tls --cacertfile #{endpoints["ca"]} --certfile #{endpoints["client_cert"]} --keyfile #{endpoints["client_key"]})

    System.put_env("CASSANDRA_PASSWORD", endpoints["password"])
    assert run(args ++ tls) =~ "has the tables read_states and read_states_notes"

    System.put_env("CASSANDRA_PASSWORD", "not-the-password")
    error = assert_raise Mix.Error, fn -> Setup.run(args ++ tls) end
    assert error.message =~ "user, password:"
    refute error.message =~ "not-the-password"
  end
end
