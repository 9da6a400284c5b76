defmodule ReadStates.Store.Postgres.OutageTest do
  # Not async: the server is killed and started again, and nobody else may need it meanwhile.
  use ReadStates.PostgresCase, async: false

  import ReadStates.Eventually
  import ReadStates.PostgresCase, only: [sql!: 1]

  alias ReadStates.{Batch, Model, OtherVM, Services, StoreContents, StoreContract}
  alias ReadStates.Store.Postgres

  @moduletag :postgres
  @moduletag :capture_log
  @moduletag :tmp_dir
  @moduletag timeout: 300_000

  @context %{name: __MODULE__, counters: [:mention_count]}

  # Each process writes its users and keeps a model of them. Writes do not notice that the server is away; reads of
  # who is not in memory may time out, and are tried again.
  defp write(name, number, model, count) do
    receive do
      :stop -> {model, count}
    after
      0 ->
        user = 1_000 * number + :rand.uniform(300)
        batch = for _ <- 1..3, do: operation(user)

        case ReadStates.update(name, batch) do
          :ok ->
            model = Model.update(model, batch)
            if rem(count, 5) == 0, do: check(name, user, model)
            write(name, number, model, count + 1)

          {:error, :overloaded} ->
            Process.sleep(5)
            write(name, number, model, count)
        end
    end
  end

  defp check(name, user, model) do
    case ReadStates.list(name, user) do
      {:ok, list} -> ^list = Model.list(model, user)
      {:error, reason} when reason in [:timeout, :store_unavailable, :overloaded] -> :ok
    end
  end

  defp operation(user) do
    channel = :rand.uniform(20)

    case :rand.uniform(30) do
      1 -> {:delete, user}
      2 -> {:delete, user, channel}
      n when n < 15 -> {:ack, user, channel, :rand.uniform(1_000_000)}
      _ -> {:increment, user, channel, 2_000_000, 1}
    end
  end

  test "a server that is killed, restarted and cut off under load costs nothing", %{
    opts: opts,
    tmp_dir: dir
  } do
    name = __MODULE__.Load

    start_supervised!(
      {ReadStates,
       name: name,
       store: {Postgres, [timeout: 3_000] ++ opts},
       journal: [path: Path.join(dir, "journal")],
       capacity: 5_000,
       commit_after: 100}
    )

    writers = for number <- 1..4, do: Task.async(fn -> write(name, number, %Model{}, 0) end)
    loads = fn -> ReadStates.stats(name).loads end
    more_loads = fn before -> eventually(fn -> loads.() > before + 100 end) end
    more_loads.(0)

    Services.run(["kill", "postgres"])
    Process.sleep(2_000)
    Services.run(["start", "postgres"])
    more_loads.(loads.())

    Services.run(["stop", "postgres"])
    Services.run(["start", "postgres"])
    more_loads.(loads.())

    Services.run(["pause", "postgres"])
    Process.sleep(6_000)
    Services.run(["cont", "postgres"])
    more_loads.(loads.())

    for writer <- writers, do: send(writer.pid, :stop)
    results = Task.await_many(writers, 120_000)

    expected =
      Enum.reduce(results, %{}, fn {model, _count}, users -> Map.merge(users, model.users) end)

    eventually(fn -> ReadStates.commit(name) == :ok end)
    entries = StoreContents.entries({Postgres, opts})
    assert Model.of_entries(entries, [:mention_count]).users == expected
  end

  test "a server that takes no writes, as a standby, is none to commit to or to load from", %{
    opts: opts
  } do
    {:ok, store, _floor} = Postgres.open(opts, @context)
    row = &Batch.new([StoreContract.row(1, 1, &1)], 1)
    :ok = Postgres.commit(store, row.(1))

    on_exit(&take_writes/0)
    sql!("ALTER SYSTEM SET default_transaction_read_only = on")
    sql!("SELECT pg_reload_conf()")
    eventually(fn -> sql!("SHOW transaction_read_only") == "on" end)

    # On a connection from before, which is closed then, and on new ones.
    assert {:error, {:read_only, text}} = Postgres.commit(store, row.(2))
    assert text =~ "takes no writes"
    assert {:error, {:read_only, ^text}} = Postgres.load(store, [1], nil)
    assert {:error, {:read_only, ^text}} = Postgres.open(opts, @context)

    take_writes()
    :ok = Postgres.commit(store, row.(3))
    {:ok, page, nil} = Postgres.load(store, [1], nil)
    assert [%{version: 3}] = Enum.to_list(page)
    :ok = Postgres.close(store)
  end

  defp take_writes do
    sql!("ALTER SYSTEM RESET default_transaction_read_only")
    sql!("SELECT pg_reload_conf()")
    eventually(fn -> sql!("SHOW transaction_read_only") == "off" end)
  end

  test "what was acknowledged is there after the VM and the server were killed", %{
    opts: opts,
    tmp_dir: dir
  } do
    journal = [path: Path.join(dir, "journal")]

    start = """
    {:ok, _} = Application.ensure_all_started(:read_states)
    {:ok, _} = ReadStates.start_link(
      name: R, store: {ReadStates.Store.Postgres, #{inspect(opts)}}, journal: #{inspect(journal)}, load_timeout: 60_000
    )
    """

    # Some of it committed, some not.
    OtherVM.run_and_kill("""
    #{start}
    for user <- 1..500, channel <- 1..10, do: :ok = ReadStates.increment(R, [user], channel, 5)
    :ok = ReadStates.commit(R)
    for user <- 1..500, channel <- 5..15, do: :ok = ReadStates.increment(R, [user], channel, 5)
    """)

    Services.run(["kill", "postgres"])
    Services.run(["start", "postgres"])

    OtherVM.run_and_kill("""
    #{start}
    for user <- 1..500 do
      {:ok, list} = ReadStates.list(R, user)
      counts = for state <- list, do: {state.channel, state.counters.mention_count}
      ^counts = for channel <- 1..15, do: {channel, if(channel in 5..10, do: 2, else: 1)}
    end
    """)
  end
end
