defmodule ReadStates.Store.Cassandra.PermissionsTest do
  # On a server that gives each user the rights he was granted, and no more.
  use ExUnit.Case, async: true

  alias ReadStates.{Batch, CQL, Services, StoreContract}
  alias ReadStates.Store.Cassandra

  @moduletag :cassandra_secure

  @context %{name: __MODULE__, counters: [:mention_count]}
  @keyspace "read_states_permissions"
  @password "not-to-be-seen"

  setup context do
    endpoints = Services.endpoints("cassandra-secure")
    own = [certfile: endpoints["client_cert"], keyfile: endpoints["client_key"]]
    # The server keeps for a while what a user may do, so each test has one of his own.
    user = "user_#{:erlang.phash2(context.test)}"

    admin = [
      contact_points: [endpoints["contact_points"]],
      keyspace: @keyspace,
      table: user,
      user: endpoints["user"],
      password: endpoints["password"],
      tls: [cacertfile: endpoints["ca"]] ++ own,
      replication_factor: 1,
      timeout: 20_000
    ]

    connect = fn ->
      CQL.connect!(endpoints["contact_points"],
        user: endpoints["user"],
        password: endpoints["password"],
        tls: own
      )
    end

    cql = connect.()
    :ok = Cassandra.set_up(admin)
    CQL.run!(cql, "DROP ROLE IF EXISTS #{user}")
    CQL.run!(cql, "CREATE ROLE #{user} WITH LOGIN = true AND PASSWORD = '#{@password}'")

    on_exit(fn ->
      # That of the test ends with it.
      cql = connect.()
      CQL.run!(cql, "DROP ROLE #{user}")
      for table <- [user, "#{user}_notes"], do: CQL.run!(cql, "DROP TABLE #{@keyspace}.#{table}")
      CQL.close(cql)
    end)

    states = "#{@keyspace}.#{user}"
    [opts: Keyword.merge(admin, user: user, password: @password), cql: cql, states: states]
  end

  defp grant(cql, opts, right, what),
    do: CQL.run!(cql, "GRANT #{right} ON #{what} TO #{opts[:user]}")

  test "who may read and write the two tables needs no more, and what is there is not made again",
       %{opts: opts, cql: cql, states: states} do
    for right <- ["SELECT", "MODIFY"], table <- [states, "#{states}_notes"] do
      grant(cql, opts, right, table)
    end

    assert Cassandra.set_up(opts) == :ok

    # The second time the header is there.
    for _ <- 1..2 do
      assert {:ok, store, 0} = Cassandra.open(opts, @context)
      # To find out what he may do leaves nothing behind.
      assert CQL.run!(cql, "SELECT state FROM #{states}") == []
      :ok = Cassandra.close(store)
    end

    assert {:ok, store, 0} = Cassandra.open(opts, @context)

    assert Cassandra.commit(store, Batch.new([StoreContract.row(0, 0, 1, counters: [1])], 1)) ==
             :ok

    :ok = Cassandra.close(store)
    assert {:ok, store, 1} = Cassandra.open(opts, @context)
    assert {:ok, batch, nil} = Cassandra.load(store, [0], nil)
    assert [_row] = Enum.to_list(batch)
    :ok = Cassandra.close(store)
  end

  test "who may make tables in the keyspace makes them, and no keyspace",
       %{opts: opts, cql: cql, states: states} do
    grant(cql, opts, "CREATE", "KEYSPACE #{@keyspace}")
    CQL.run!(cql, "DROP TABLE #{states}")
    assert Cassandra.set_up(opts) == :ok
    assert CQL.run!(cql, "SELECT state FROM #{states}") == []

    assert {:error, {:access_denied, "user: " <> text}} =
             Cassandra.set_up(Keyword.put(opts, :keyspace, "#{@keyspace}_other"))

    assert text =~ "#{opts[:user]} has no CREATE permission on <all keyspaces>"
  end

  for {right, others} <- [{"SELECT", "MODIFY"}, {"MODIFY", "SELECT"}], suffix <- ["", "_notes"] do
    test "who may not #{right} a table#{suffix} is refused at the start, by name and without his password",
         %{opts: opts, cql: cql, states: states} do
      # All but this one.
      for table <- [states, "#{states}_notes"], do: grant(cql, opts, unquote(others), table)
      may = if unquote(suffix) == "", do: "#{states}_notes", else: states
      grant(cql, opts, unquote(right), may)

      # The first time there is no header, and then there is.
      for _ <- 1..2 do
        assert {:error, {:access_denied, "user: " <> text}} = Cassandra.open(opts, @context)
        assert text =~ "#{opts[:user]} has no #{unquote(right)} permission on"
        assert text =~ "#{states}#{unquote(suffix)}>"
        refute text =~ @password
        admin_opens(opts)
      end
    end
  end

  # Notes the header.
  defp admin_opens(opts) do
    endpoints = Services.endpoints("cassandra-secure")
    admin = Keyword.merge(opts, user: endpoints["user"], password: endpoints["password"])
    assert {:ok, store, 0} = Cassandra.open(admin, @context)
    :ok = Cassandra.close(store)
  end
end
