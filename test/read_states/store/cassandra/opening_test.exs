defmodule ReadStates.Store.Cassandra.OpeningTest do
  use ExUnit.Case, async: true

  import ExUnit.CaptureLog

  alias ReadStates.{CQL, Proxy, RemoteContract, Secret, Services}
  alias ReadStates.Store.Cassandra

  @context %{name: __MODULE__, counters: [:mention_count]}
  @keyspace "read_states_opening"
  @made "`mix read_states.cassandra.setup` makes it, or `ReadStates.Store.Cassandra.set_up/1` where there is no Mix"

  defp open(opts, counters \\ [:mention_count]) do
    with {:ok, store, floor} <- Cassandra.open(opts, %{@context | counters: counters}) do
      on_exit(fn -> Cassandra.close(store) end)
      {:ok, floor}
    end
  end

  describe "an option that cannot be right" do
    for {option, value, message} <- [
          {:contact_points, [],
           "contact_points must be a list of strings in UTF-8, host or host:port, got: []"},
          {:contact_points, "a", "contact_points must be a list of strings in UTF-8"},
          {:contact_points, [<<255>>], "contact_points must be a list of strings in UTF-8"},
          {:keyspace, "A", "keyspace must be a string of at most 42 of a-z, 0-9 and _"},
          {:table, "a\"; DROP TABLE b", "table must be a string of at most 42 of a-z"},
          {:table, String.duplicate("a", 43), "table must be"},
          {:consistency, :any, "consistency must be one of"},
          {:consistency, [read: :each_quorum, write: :quorum], "consistency must be one of"},
          {:consistency, [read: :quorum], "consistency must be one of"},
          {:datacentre, :dc1, "datacentre must be the name of one, a string in UTF-8, got: :dc1"},
          {:datacentre, <<255>>, "datacentre must be the name of one, a string in UTF-8"},
          {:user, "a", "user and password must be given together"},
          {:password, ~c"not-to-be-seen", ~r/^password must be a string in UTF-8$/},
          {:password, <<255>>, ~r/^password must be a string in UTF-8$/},
          {:tls, :yes, "tls must be a keyword list, got: :yes"},
          {:tls, [cafile: "a"], "tls must be one of [:cacertfile"},
          {:tls, [cacertfile: 1], "tls[:cacertfile] must be the path of a PEM file"},
          {:tls, [cacertfile: <<255>>], "tls[:cacertfile] must be the path of a PEM file"},
          {:tls, [verify_host: nil], "tls[:verify_host] must be true or false, got: nil"},
          {:tls, [certfile: "a"], "tls[:certfile] and tls[:keyfile] must be given together"},
          {:timeout, 0, "timeout must be an integer from 1 to 30000, got: 0"},
          {:replication_factor, 0, "replication_factor must be an integer from 1 to 100"},
          {:hosts, [], "opts must be one of [:contact_points"}
        ] do
      test "raises: #{option}: #{inspect(value)}" do
        error = assert_raise ArgumentError, fn -> open([{unquote(option), unquote(value)}]) end
        assert error.message =~ unquote(Macro.escape(message))
      end
    end
  end

  test "where nobody answers" do
    assert {:error, {:unreachable, text}} = open(contact_points: ["127.0.0.1:1", "127.0.0.1:2"])
    assert text =~ "contact_points: none of 127.0.0.1:1, 127.0.0.1:2 answers"
    assert {:error, {:unreachable, text}} = open(contact_points: ["nowhere.invalid"])
    assert text =~ "contact_points: none of nowhere.invalid answers"
  end

  @tag timeout: 120_000
  test "where somebody takes the connection and says nothing" do
    # As a node that hangs does: its kernel still accepts.
    {:ok, socket} = :gen_tcp.listen(0, ip: {127, 0, 0, 1})
    {:ok, port} = :inet.port(socket)
    assert {:error, {:unreachable, text}} = open(contact_points: ["127.0.0.1:#{port}"])
    assert text =~ "contact_points: none of 127.0.0.1:#{port} answers"
  end

  test "with a file of certificates that is none" do
    assert {:error, {:tls, text}} = open(tls: [cacertfile: "mix.exs"])
    assert text =~ "tls: cacertfile: mix.exs: "
  end

  describe "a cluster" do
    @describetag :cassandra

    setup context do
      [point | _] = String.split(Services.endpoints("cassandra")["contact_points"], ",")
      cql = CQL.connect!(point)
      keyspace = "#{@keyspace}_#{:erlang.phash2(context.test)}"
      CQL.run!(cql, "DROP KEYSPACE IF EXISTS #{keyspace}")

      on_exit(fn ->
        # That of the test ends with it.
        cql = CQL.connect!(point)
        CQL.run!(cql, "DROP KEYSPACE IF EXISTS #{keyspace}")
        CQL.close(cql)
      end)

      opts = [contact_points: [point], keyspace: keyspace, replication_factor: 1, timeout: 20_000]
      [opts: opts, cql: cql, keyspace: keyspace]
    end

    test "without the keyspace, and with one without the table",
         %{opts: opts, cql: cql, keyspace: keyspace} do
      assert {:error, {:missing, "keyspace: there is no keyspace " <> text}} = open(opts)
      assert text == "#{keyspace}; #{@made}"
      make_keyspace(cql, keyspace, "'datacenter1': 1")
      assert {:error, {:missing, "table: there is no table " <> text}} = open(opts)
      assert text == "#{keyspace}.read_states; #{@made}"
    end

    test "gets its tables in a VM where no application is started, as that of `bin/app eval`",
         %{opts: opts} do
      RemoteContract.set_up_alone(Cassandra, opts)
      assert open(opts) == {:ok, 0}
    end

    test "with a table of another shape", %{opts: opts, cql: cql, keyspace: keyspace} do
      make_keyspace(cql, keyspace, "'datacenter1': 1")

      for {columns, text} <- [
            {"user bigint, kind tinyint, channel bigint, state text, PRIMARY KEY (user, kind, channel)",
             "there is no column state of type blob"},
            {"user bigint, kind int, channel bigint, state blob, PRIMARY KEY (user, kind, channel)",
             "there is no part of the primary key kind of type tinyint"},
            {"user bigint, kind tinyint, channel bigint, state blob, PRIMARY KEY ((user, kind), channel)",
             "there is no part of the primary key kind of type tinyint"},
            {"user bigint, kind tinyint, channel bigint, at int, state blob, PRIMARY KEY (user, kind, channel, at)",
             "it has 4 columns in its primary key"}
          ] do
        CQL.run!(cql, "CREATE TABLE #{keyspace}.read_states (#{columns})")
        expected = "table: #{keyspace}.read_states is another table: #{text}"
        assert open(opts) == {:error, {:not_ours, expected}}
        CQL.run!(cql, "DROP TABLE #{keyspace}.read_states")
      end

      :ok = Cassandra.set_up(opts)
      # What somebody else adds is his business.
      CQL.run!(cql, "ALTER TABLE #{keyspace}.read_states ADD remark text")
      assert open(opts) == {:ok, 0}
    end

    test "with a table that forgets", %{opts: opts, cql: cql, keyspace: keyspace} do
      :ok = Cassandra.set_up(opts)

      for table <- ["read_states", "read_states_notes"],
          {option, value, good, text} <- [
            {"default_time_to_live", 3_600, 0, "default_time_to_live 3600, after which"},
            {"gc_grace_seconds", 0, 3_600, "gc_grace_seconds 0, so that"},
            {"gc_grace_seconds", 3_599, 864_000, "gc_grace_seconds 3599, so that"}
          ] do
        CQL.run!(cql, "ALTER TABLE #{keyspace}.#{table} WITH #{option} = #{value}")
        assert {:error, {:not_ours, "table: " <> found}} = open(opts)
        assert found =~ "#{keyspace}.#{table} has #{text}"
        CQL.run!(cql, "ALTER TABLE #{keyspace}.#{table} WITH #{option} = #{good}")
      end

      assert open(opts) == {:ok, 0}
    end

    @tag timeout: 120_000
    test "one of whose contact points hangs", %{opts: opts} do
      :ok = Cassandra.set_up(opts)
      {:ok, socket} = :gen_tcp.listen(0, ip: {127, 0, 0, 1})
      {:ok, port} = :inet.port(socket)
      points = ["127.0.0.1:#{port}" | opts[:contact_points]]
      assert open(Keyword.put(opts, :contact_points, points)) == {:ok, 0}
    end

    test "with other counters, or of another version", %{opts: opts, cql: cql, keyspace: keyspace} do
      :ok = Cassandra.set_up(opts)
      assert open(opts, [:a, :b]) == {:ok, 0}
      assert open(opts, [:a, :b, :c]) == {:ok, 0}
      assert {:error, {:counters_changed, text}} = open(opts, [:a, :b])

      assert text =~
               "read_states_notes was written with the counters a, b, c, which must come first"

      note =
        "UPDATE #{keyspace}.read_states_notes SET value = textAsBlob('{}') WHERE name = 'header'"

      CQL.run!(cql, note)
      assert {:error, {:not_ours, text}} = open(opts)
      assert text =~ "#{keyspace}.read_states_notes: damaged header"
    end

    test "with levels under which a load may miss a commit",
         %{opts: opts, cql: cql, keyspace: keyspace} do
      make_keyspace(cql, keyspace, "'datacenter1': 3")
      assert {:error, {:consistency, text}} = open([consistency: :one] ++ opts)

      assert text ==
               "consistency: with :one for loads and :one for commits a load may miss what was committed, " <>
                 "for keyspace #{keyspace} has replicas datacenter1: 3"

      for levels <- [[read: :local_one, write: :local_quorum], [read: :quorum, write: :one]] do
        assert {:error, {:consistency, _text}} = open([consistency: levels] ++ opts)
      end

      for levels <- [:quorum, :local_quorum, [read: :one, write: :all]] do
        assert {:error, {:missing, _no_table}} = open([consistency: levels] ++ opts)
      end
    end

    test "with a level that asks for more replicas than there are",
         %{opts: opts, cql: cql, keyspace: keyspace} do
      make_keyspace(cql, keyspace, "'datacenter1': 2")

      for {levels, what} <- [
            {:three, ":three for loads"},
            {[read: :one, write: :three], ":three for commits"}
          ] do
        assert {:error, {:consistency, text}} = open([consistency: levels] ++ opts)

        assert text ==
                 "consistency: #{what} is more than can ever answer, for keyspace #{keyspace} has replicas datacenter1: 2"
      end

      assert {:error, {:missing, _no_table}} = open([consistency: :two] ++ opts)
    end

    test "without the datacentre that is named",
         %{opts: opts, cql: cql, keyspace: keyspace} do
      make_keyspace(cql, keyspace, "'datacenter1': 1")
      assert {:error, {:invalid_option, text}} = open([datacentre: "dc2"] ++ opts)

      assert text ==
               "datacentre: no node is in dc2, only in datacenter1"

      assert {:error, {:missing, _no_table}} = open([datacentre: "datacenter1"] ++ opts)
    end

    test "starts no instance, and says why", %{opts: opts} do
      Process.flag(:trap_exit, true)

      log =
        capture_log(fn ->
          assert {:error, reason} =
                   ReadStates.start_link(name: __MODULE__, store: {Cassandra, opts})

          assert inspect(reason) =~ "there is no keyspace"
        end)

      refute log =~ "not-the-password"
    end
  end

  describe "a cluster that asks who is there" do
    @describetag :cassandra_secure

    setup do
      endpoints = Services.endpoints("cassandra-secure")

      own = [certfile: endpoints["client_cert"], keyfile: endpoints["client_key"]]

      opts = [
        contact_points: [endpoints["contact_points"]],
        user: endpoints["user"],
        password: endpoints["password"],
        tls: [cacertfile: endpoints["ca"]] ++ own,
        replication_factor: 1,
        timeout: 20_000
      ]

      :ok = Cassandra.set_up(opts)
      [opts: opts, own: own, endpoints: endpoints]
    end

    test "lets in who is known, over TLS", %{opts: opts} do
      assert {:ok, _floor} = open(opts)
    end

    test "does not let in a wrong password, or none, and shows neither", %{opts: opts} do
      wrong = Keyword.put(opts, :password, "not-the-password")
      assert {:error, {:access_denied, text}} = open(wrong)
      assert text =~ ~r/^user, password: /
      refute text =~ "not-the-password"

      assert {:error, {:access_denied, text}} = open(Keyword.drop(opts, [:user, :password]))
      assert text =~ ~r/^user, password: /
    end

    test "says what it does not take, also where another contact point is away", %{
      opts: opts,
      own: own,
      endpoints: endpoints
    } do
      # Several times, for the driver asks them in any order.
      points = ["127.0.0.1:1", endpoints["contact_points"]]
      opts = Keyword.put(opts, :contact_points, points)

      for _ <- 1..10 do
        wrong = Keyword.put(opts, :password, "not-the-password")
        assert {:error, {:access_denied, "user, password: " <> _text}} = open(wrong)
        wrong = Keyword.put(opts, :tls, [cacertfile: endpoints["other_ca"]] ++ own)
        assert {:error, {:tls, "tls: " <> _text}} = open(wrong)
      end

      assert {:ok, _floor} = open(opts)
    end

    test "shows no password in what an instance that does not start says", %{opts: opts} do
      Process.flag(:trap_exit, true)
      store = {Cassandra, Keyword.put(opts, :password, "not-the-password")}

      log =
        capture_log(fn ->
          assert {:error, reason} = ReadStates.start_link(name: __MODULE__, store: store)
          assert inspect(reason) =~ "access_denied"
          refute inspect(reason, limit: :infinity) =~ "not-the-password"
        end)

      refute log =~ "not-the-password"
      refute inspect(Secret.seal(store)) =~ "not-the-password"
    end

    test "does not let in who has no certificate, or one of somebody else", %{
      opts: opts,
      own: own,
      endpoints: endpoints
    } do
      ca = [cacertfile: endpoints["ca"]]
      assert {:error, {:tls, text}} = open(Keyword.put(opts, :tls, ca))
      assert text =~ "tls: certfile: the server asks for a certificate"

      others = [certfile: endpoints["other_ca"], keyfile: endpoints["other_key"]]
      assert {:error, {:tls, "tls: " <> _alert}} = open(Keyword.put(opts, :tls, ca ++ others))

      # And the key has to be that of the certificate.
      wrong = Keyword.put(own, :keyfile, endpoints["other_key"])
      assert {:error, {:tls, text}} = open(Keyword.put(opts, :tls, ca ++ wrong))
      assert text =~ ~r/^tls: keyfile: /
      unreadable = Keyword.put(own, :keyfile, "mix.exs")
      assert {:error, {:tls, text}} = open(Keyword.put(opts, :tls, ca ++ unreadable))
      assert text =~ "tls: keyfile: mix.exs: "
    end

    test "is not spoken to where its certificate is somebody else's", %{
      opts: opts,
      own: own,
      endpoints: endpoints
    } do
      others = Keyword.put(opts, :tls, [cacertfile: endpoints["other_ca"]] ++ own)
      assert {:error, {:tls, text}} = open(others)
      assert text =~ ~r/^tls: .*certificate/
      refute text =~ "certfile"
      # Nor by those whom the system trusts.
      assert {:error, {:tls, _text}} = open(Keyword.put(opts, :tls, own))
    end

    test "is not spoken to at an address that its certificate does not name", %{
      opts: opts,
      own: own,
      endpoints: endpoints
    } do
      [_host, port] = String.split(endpoints["contact_points"], ":")

      # With the same port, for the driver asks for it at the address by which the node knows itself.
      port = String.to_integer(port)
      ^port = Proxy.start(port, {127, 0, 0, 2}, port)
      opts = Keyword.put(opts, :contact_points, ["127.0.0.2:#{port}"])
      assert {:error, {:tls, text}} = open(opts)
      assert text =~ "not valid for"

      # Unless that is not asked for.
      tls = [cacertfile: endpoints["ca"], verify_host: false] ++ own
      assert {:ok, _floor} = open(Keyword.put(opts, :tls, tls))
    end

    test "is named where it does not speak without TLS", %{opts: opts} do
      assert {:error, {reason, text}} = open(Keyword.delete(opts, :tls))
      assert reason in [:unreachable, :timeout]
      assert text =~ "they speak TLS only"
    end
  end

  defp make_keyspace(cql, keyspace, replicas) do
    CQL.run!(
      cql,
      "CREATE KEYSPACE #{keyspace} WITH replication = {'class': 'NetworkTopologyStrategy', #{replicas}}"
    )
  end
end
