defmodule ReadStates.EctoStoreTest do
  # Not async: there is one such repo.
  use ExUnit.Case, async: false

  import ReadStates.Eventually
  import ReadStates.PostgresCase, only: [locked: 2, sql!: 1, url: 0]

  alias ReadStates.{EctoStore, OtherVM, PsqlRepo}
  alias ReadStates.Store.Postgres

  @moduletag :postgres
  @schema "read_states_ecto"

  setup do
    sql!("DROP SCHEMA IF EXISTS #{@schema} CASCADE; CREATE SCHEMA #{@schema}")
    :ok = Postgres.set_up(url: url(), schema: @schema)
    start_supervised!({PsqlRepo, {url(), @schema}})
    :ok
  end

  use ReadStates.StoreContract, store: EctoStore, opts: fn _context -> [repo: PsqlRepo] end

  test "the guide shows this store" do
    [_, store] =
      Regex.run(~r/```elixir\n(defmodule MyApp.EctoStore .+?)```/s, File.read!("guides/ecto.md"))

    source = File.read!("test/support/ecto_store.ex")
    assert store == String.replace(source, "ReadStates.EctoStore", "MyApp.EctoStore")
  end

  test "reads what the store in Rust has written, and the other way", %{store: store} do
    {:ok, other, 0} =
      Postgres.open([url: url(), schema: @schema], %{name: :other, counters: [:mention_count]})

    :ok =
      ReadStates.StoreContract.commit(Postgres, other, [row(@max, {255, 7}, 10), {:delete, 2, 5}])

    assert Enum.sort(scan(store)) == Enum.sort([row(@max, {255, 7}, 10), {:delete, 2, 5}])
    :ok = commit(store, [row(@max, {255, 7}, 11), row(2, 1, 4), {:delete, 3, {0, 1}, 6}])

    assert ReadStates.StoreContract.rows(ReadStates.StoreContract.scan(Postgres, other)) == [
             row(@max, {255, 7}, 11)
           ]

    :ok = Postgres.close(other)
  end

  test "a counter that was appended keeps nothing of what an instance without it has written over" do
    ReadStates.OwnersContract.appended(EctoStore, repo: PsqlRepo)
  end

  test "forgets deletes in portions, more than a commit brings", %{store: store} do
    count = fn -> sql!("SELECT count(*) FROM #{@schema}.read_states_deletes") end
    :ok = commit(store, for(channel <- 1..2_500, do: {:delete, 1, {0, channel}, channel}))
    :ok = commit(store, [{:delete, 2, 4_000_000_000}])
    assert count.() == "1499"
    for n <- 1..2, do: :ok = commit(store, [{:delete, 2, 4_000_000_000 + n}])
    assert count.() == "1"
  end

  test "raises the floor before it writes, and lets nobody wait for it", %{store: store} do
    :ok = commit(store, [row(1, 1, 1)])

    floor = fn -> sql!("SELECT number FROM #{@schema}.read_states_notes WHERE name = 'floor'") end
    lock = "SELECT version FROM #{@schema}.read_states WHERE \"user\" = 1 FOR UPDATE"

    waiting =
      locked(lock, fn ->
        waiting = Task.async(fn -> commit(store, [row(1, 1, 5)]) end)
        eventually(fn -> floor.() == "5" end)
        assert sql!("SELECT version FROM #{@schema}.read_states") == "1"
        waiting
      end)

    assert Task.await(waiting, 60_000) == :ok
  end

  @tag :tmp_dir
  test "one of several instances that was killed goes on, whatever the others have committed since",
       %{tmp_dir: dir} do
    store = {EctoStore, repo: PsqlRepo}
    killed = [name: __MODULE__.Killed, store: store, journal: [path: Path.join(dir, "journal")]]

    OtherVM.run_and_kill("""
    {:ok, _} = Application.ensure_all_started(:read_states)
    {:ok, _} = ReadStates.PsqlRepo.start_link(#{inspect({url(), @schema})})
    {:ok, _} = ReadStates.start_link(#{inspect(killed)})
    :ok = ReadStates.ack(#{inspect(killed[:name])}, 1, 10, 5)
    """)

    other = __MODULE__.Other
    start_supervised!({ReadStates, name: other, store: store, journal: false})
    :ok = ReadStates.ack(other, 2, 10, 6)
    :ok = ReadStates.commit(other)

    start_supervised!({ReadStates, killed})
    assert {:ok, %{last_message_id: 5}} = ReadStates.get(killed[:name], 1, 10)
  end
end
