defmodule ReadStates.EctoStoreTest do
  # Not async: there is one such repo.
  use ExUnit.Case, async: false

  import ReadStates.PostgresCase, only: [sql!: 1, url: 0]

  alias ReadStates.{EctoStore, PsqlRepo}
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
end
