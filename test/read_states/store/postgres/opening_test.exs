defmodule ReadStates.Store.Postgres.OpeningTest do
  # Not async: DATABASE_URL is of the whole VM.
  use ExUnit.Case, async: false

  import ExUnit.CaptureIO
  import ExUnit.CaptureLog
  import ReadStates.PostgresCase, only: [sql!: 1, sql!: 2]

  alias Mix.Tasks.ReadStates.Postgres.Setup
  alias ReadStates.{Proxy, RemoteContract, Secret, Services}
  alias ReadStates.Store.Postgres

  @context %{name: __MODULE__, counters: [:mention_count]}

  setup do
    before = System.get_env("DATABASE_URL")
    System.delete_env("DATABASE_URL")

    on_exit(fn ->
      if before,
        do: System.put_env("DATABASE_URL", before),
        else: System.delete_env("DATABASE_URL")
    end)
  end

  defp open(opts, counters \\ [:mention_count]) do
    with {:ok, store, floor} <- Postgres.open(opts, %{@context | counters: counters}) do
      :ok = Postgres.close(store)
      {:ok, floor}
    end
  end

  describe "an option that cannot be right" do
    @url "postgres://u:not-to-be-seen@h/d"

    for {opts, message} <- [
          {[], "url must be given, or DATABASE_URL in the environment"},
          {[url: ~c"postgres://u:not-to-be-seen@h/d"], "url must be a string"},
          {[url: "mysql://u:not-to-be-seen@h/d"], "url must be postgres://user:password@host"},
          {[url: "postgres://u:not-to-be-seen@h"], "url must be postgres://user:password@host"},
          {[url: "postgres://u:not-to-be-seen@h/"], "url must be postgres://user:password@host"},
          {[url: "postgres://h/d"], "url has no user"},
          {[url: @url <> "?sslmode=require"], "url must have sslmode=disable, verify-ca or"},
          {[url: @url <> "?ssl=true"], "url must have no parameter but sslmode"},
          {[url: @url <> "?sslmode=verify-full", tls: true], "tls and the sslmode of url"},
          {[url: @url, password: :a], "password must be a string"},
          {[url: @url, password: <<255>>], "password must be a string in UTF-8"},
          {[url: "postgres://u:not-to-be-seen%FF@h/d"], "percent-encoded UTF-8"},
          {[url: "postgres://u:not-to-be-seen@h:99999/d"],
           "url must have a port from 1 to 65535"},
          {[url: @url, schema: "A"], "schema must be a string of at most 42 of a-z, 0-9 and _"},
          {[url: @url, table: "a\"; DROP TABLE b"],
           "table must be a string of at most 42 of a-z"},
          {[url: @url, table: String.duplicate("a", 43)], "table must be"},
          {[url: @url, pool: 0], "pool must be an integer from 1 to 64, got: 0"},
          {[url: @url, timeout: 0], "timeout must be an integer from 1 to 50000, got: 0"},
          {[url: @url, tls: :yes], "tls must be a keyword list, got: :yes"},
          {[url: @url, tls: [cafile: "a"]], "tls must be one of [:cacertfile"},
          {[url: @url, tls: [verify_host: nil]], "tls[:verify_host] must be true or false"},
          {[url: @url, tls: [keyfile: "a"]], "tls[:certfile] and tls[:keyfile] must be given"},
          {[uri: @url], "opts must be one of [:url"}
        ] do
      test "raises: #{inspect(opts)}" do
        error = assert_raise ArgumentError, fn -> open(unquote(opts)) end
        assert error.message =~ unquote(message)
        refute error.message =~ "not-to-be-seen"
      end
    end
  end

  test "where nobody answers" do
    assert {:error, {:unreachable, text}} = open(url: "postgres://u:not-to-be-seen@127.0.0.1:1/d")
    assert text =~ "url: nobody answers at 127.0.0.1:1: "
    refute text =~ "not-to-be-seen"
    assert {:error, {:unreachable, text}} = open(url: "postgres://u@nowhere.invalid/d")
    assert text =~ "url: nobody answers at nowhere.invalid:5432: "
  end

  test "with a file of certificates that is none" do
    assert {:error, {:tls, text}} = open(url: "postgres://u@h/d", tls: [cacertfile: "mix.exs"])
    assert text =~ "tls: cacertfile: mix.exs: "
  end

  test "the task prints the statements, which say what the guide says" do
    printed = capture_io(fn -> Setup.run(["--print"]) end)

    assert printed =~
             ~r/CREATE TABLE IF NOT EXISTS "public"."read_states" \(\n  "user" bigint NOT NULL,/

    [_, sql] = Regex.run(~r/```sql\n(.+?)```/s, File.read!("guides/postgres.md"))
    assert printed == sql

    printed =
      capture_io(fn -> Setup.run(["--print", "--schema", "chat", "--table", "states"]) end)

    assert printed =~ ~s("chat"."states_deletes")
  end

  test "the task says in one line what is wrong" do
    for {args, message} <- [
          {[], ~r/^url must be given, or DATABASE_URL/},
          {["--table", "No"], ~r/^table must be a string/},
          {["--tabel", "a"], ~r/^--tabel: unknown/},
          {["--timeout", "a"], ~r/^--timeout: unknown, or a wrong value/},
          {["chat"], ~r/^there is more than the options/},
          {["--cacertfile", "a"], ~r/^--cacertfile: only with --tls/}
        ] do
      assert_raise Mix.Error, message, fn -> Setup.run(args) end
    end
  end

  describe "a server" do
    @describetag :postgres

    setup do
      endpoints = Services.endpoints("postgres")
      schema = "read_states_opening"
      sql!("DROP SCHEMA IF EXISTS #{schema} CASCADE; CREATE SCHEMA #{schema}")
      on_exit(fn -> sql!("DROP SCHEMA IF EXISTS #{schema} CASCADE") end)
      url = endpoints["url"]
      [opts: [url: url, schema: schema], url: url, schema: schema, endpoints: endpoints]
    end

    test "the task makes what is missing, and leaves what is there", %{url: url, opts: opts} do
      assert {:error, {:missing, text}} = open(opts)

      assert text ==
               "table: there is no table read_states_opening.read_states in read_states; " <>
                 "`mix read_states.postgres.setup` makes it, or `ReadStates.Store.Postgres.set_up/1` where there is no Mix"

      System.put_env("DATABASE_URL", url)
      run = fn -> capture_io(fn -> Setup.run(["--schema", "read_states_opening"]) end) end

      said =
        "schema read_states_opening has the tables read_states, read_states_deletes and read_states_notes\n"

      assert run.() == said
      {:ok, store, 0} = Postgres.open(Keyword.delete(opts, :url), @context)
      :ok = Postgres.commit(store, ReadStates.Batch.new([{:delete, 7, 8}], 1))
      :ok = Postgres.close(store)
      assert run.() == said
      assert open(opts) == {:ok, 8}

      System.put_env(
        "DATABASE_URL",
        String.replace(url, ":read_states-test@", ":not-the-password@")
      )

      error = assert_raise Mix.Error, fn -> Setup.run([]) end
      assert error.message =~ "url: 127.0.0.1:"
      refute error.message =~ "not-the-password"
    end

    test "gets its tables in a VM where no application is started, as that of `bin/app eval`", %{
      opts: opts
    } do
      RemoteContract.set_up_alone(Postgres, opts)
      assert open(opts) == {:ok, 0}
    end

    test "that lets one in, and then says nothing, is an error that names the option", %{
      url: url,
      opts: opts
    } do
      uri = URI.parse(url)
      port = Proxy.start(uri.port)
      :ok = Proxy.hang_at(port, "statement_timeout")
      opts = Keyword.merge(opts, url: URI.to_string(%{uri | port: port}), timeout: 500)

      assert open(opts) ==
               {:error, {:unreachable, "url: 127.0.0.1:#{port} does not answer within 500 ms"}}
    end

    test "that hangs while the tables are looked at", %{url: url, opts: opts} do
      :ok = Postgres.set_up(opts)
      uri = URI.parse(url)
      port = Proxy.start(uri.port)
      :ok = Proxy.hang_at(port, "pg_attribute")
      opts = Keyword.merge(opts, url: URI.to_string(%{uri | port: port}), timeout: 500)
      assert {:error, {:timeout, text}} = open(opts)
      assert text =~ ~r/^no answer within \d+ ms$/
    end

    test "without the database", %{url: url} do
      assert {:error, {:missing, text}} =
               open(url: String.replace(url, ~r{/read_states$}, "/nothing"))

      assert text =~ ~r/^url: 127.0.0.1:\d+: database "nothing" does not exist$/
    end

    test "does not let in a wrong password, or none, and shows neither", %{url: url, opts: opts} do
      :ok = Postgres.set_up(opts)
      wrong = [password: "not-the-password"] ++ opts
      assert {:error, {:access_denied, text}} = open(wrong)

      assert text =~
               ~r/^url: 127.0.0.1:\d+: password authentication failed for user "read_states"$/

      none = String.replace(url, ":read_states-test@", "@")
      assert {:error, {:access_denied, text}} = open(url: none)
      assert text =~ "asks for a password"
      # A password of its own instead of the one in the URL.
      assert {:ok, 0} = open([password: "read_states-test"] ++ Keyword.put(opts, :url, none))

      Process.flag(:trap_exit, true)

      log =
        capture_log(fn ->
          assert {:error, reason} =
                   ReadStates.start_link(name: __MODULE__, store: {Postgres, wrong})

          assert inspect(reason) =~ "access_denied"
          refute inspect(reason, limit: :infinity) =~ "not-the-password"
        end)

      refute log =~ "not-the-password"
      refute inspect(Secret.seal(wrong)) =~ "not-the-password"
    end

    test "with a table of another shape", %{opts: opts, schema: schema} do
      for {columns, text} <- [
            {"id bigint PRIMARY KEY",
             "read_states is another table: it has no column user of type bigint"},
            {~s("user" bigint, kind smallint, channel bigint, version integer, PRIMARY KEY ("user", kind, channel\)),
             "it has no column version of type bigint that is not null"}
          ] do
        sql!("CREATE TABLE #{schema}.read_states (#{columns})")
        assert {:error, {:not_ours, said}} = open(opts)
        assert said =~ text
        sql!("DROP TABLE #{schema}.read_states")
      end

      :ok = Postgres.set_up(opts)
      sql!("ALTER TABLE #{schema}.read_states DROP CONSTRAINT read_states_pkey")
      assert {:error, {:not_ours, said}} = open(opts)
      assert said =~ "its primary key is (none), not (user, kind, channel)"
      sql!("ALTER TABLE #{schema}.read_states ADD PRIMARY KEY (\"user\", channel, kind)")
      assert {:error, {:not_ours, said}} = open(opts)
      assert said =~ "its primary key is (user, channel, kind), not (user, kind, channel)"
      sql!("DROP TABLE #{schema}.read_states")
      :ok = Postgres.set_up(opts)
      # What somebody else adds is his business.
      sql!("ALTER TABLE #{schema}.read_states ADD remark text")
      sql!("ALTER TABLE #{schema}.read_states ADD at timestamptz NOT NULL DEFAULT now()")
      assert open(opts) == {:ok, 0}
      # Unless every row must have it.
      sql!("ALTER TABLE #{schema}.read_states ADD owner text NOT NULL")
      assert {:error, {:not_ours, said}} = open(opts)
      assert said =~ "its column owner may not be null and has no default"
      sql!("ALTER TABLE #{schema}.read_states DROP owner")
      sql!("DROP TABLE #{schema}.read_states_deletes")
      assert {:error, {:missing, said}} = open(opts)
      assert said =~ "there is no table #{schema}.read_states_deletes"
    end

    test "the task does not make the schema, and says so", %{url: url} do
      assert {:error, {:missing, text}} = Postgres.set_up(url: url, schema: "read_states_nowhere")

      assert text ==
               "schema: there is no schema read_states_nowhere in read_states: CREATE SCHEMA read_states_nowhere"
    end

    test "with other counters, or of another version", %{opts: opts, schema: schema} do
      :ok = Postgres.set_up(opts)
      assert open(opts, [:a, :b]) == {:ok, 0}
      assert open(opts, [:a, :b, :c]) == {:ok, 0}
      assert {:error, {:counters_changed, text}} = open(opts, [:a, :b])

      assert text =~
               "table #{schema}.read_states was written with the counters a, b, c, which must come first"

      sql!("UPDATE #{schema}.read_states_notes SET text = '{}' WHERE name = 'header'")
      assert {:error, {:not_ours, text}} = open(opts)
      assert text =~ "damaged header"
    end

    test "with a user who may not do it, and one who speaks TLS only", %{
      opts: opts,
      endpoints: endpoints
    } do
      :ok = Postgres.set_up(opts)
      url = String.replace(opts[:url], "//read_states:", "//tls_only:")
      opts = Keyword.put(opts, :url, url)
      assert {:error, {:access_denied, text}} = open(opts)
      assert text =~ "no encryption"

      opts = [tls: [cacertfile: endpoints["ca"]]] ++ opts
      assert {:error, {reason, text}} = open(opts)
      assert reason == :access_denied and text =~ "read_states_opening"
      sql!("GRANT USAGE ON SCHEMA read_states_opening TO tls_only")
      assert {:error, {:access_denied, text}} = open(opts)

      assert text =~
               "GRANT SELECT, INSERT, UPDATE, DELETE ON read_states_opening.read_states TO tls_only"

      sql!(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA read_states_opening TO tls_only"
      )

      assert open(opts) == {:ok, 0}
      assert sql!("SELECT 1", url <> "?sslmode=require") == "1"
    end

    test "with a user who must have a certificate", %{
      opts: opts,
      schema: schema,
      endpoints: endpoints
    } do
      :ok = Postgres.set_up(opts)
      sql!("GRANT USAGE ON SCHEMA #{schema} TO with_certificate")
      tables = "ALL TABLES IN SCHEMA #{schema}"
      sql!("GRANT SELECT, INSERT, UPDATE, DELETE ON #{tables} TO with_certificate")
      url = String.replace(opts[:url], "//read_states:", "//with_certificate:")

      open = fn tls ->
        open(url: url, schema: schema, tls: [cacertfile: endpoints["ca"]] ++ tls)
      end

      assert {:error, {:access_denied, text}} = open.([])
      assert text =~ "requires a valid client certificate"
      own = [certfile: endpoints["client_cert"], keyfile: endpoints["client_key"]]
      assert open.(own) == {:ok, 0}
      assert {:error, {:tls, text}} = open.(Keyword.put(own, :keyfile, "mix.exs"))
      assert text =~ "tls: keyfile: mix.exs: "
    end

    test "is not spoken to where its certificate does not fit", %{
      opts: opts,
      endpoints: endpoints
    } do
      :ok = Postgres.set_up(opts)
      open = fn tls, opts -> open(Keyword.put(opts, :tls, tls)) end
      assert {:ok, 0} = open.([cacertfile: endpoints["ca"]], opts)
      assert {:error, {:tls, text}} = open.([cacertfile: endpoints["other_ca"]], opts)
      assert text =~ ~r/^tls: 127.0.0.1:\d+: .*certificate/
      # Nor by those whom the system trusts.
      assert {:error, {:tls, _text}} = open.(true, opts)
      # The certificate does not name this address.
      other = Keyword.update!(opts, :url, &String.replace(&1, "127.0.0.1", "127.0.0.2"))
      assert {:error, {:tls, text}} = open.([cacertfile: endpoints["ca"]], other)
      assert text =~ "not valid for"
      assert {:ok, 0} = open.([cacertfile: endpoints["ca"], verify_host: false], other)
    end
  end
end
