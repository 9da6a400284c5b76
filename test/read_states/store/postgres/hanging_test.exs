defmodule ReadStates.Store.Postgres.HangingTest do
  # A connection that stays open and answers nothing, as behind a firewall that has forgotten it.

  use ReadStates.PostgresCase, async: true

  import ReadStates.Eventually
  import ReadStates.PostgresCase, only: [locked: 2, sql!: 1]
  import ReadStates.StoreContract, only: [commit: 3, row: 3]

  alias ReadStates.Proxy
  alias ReadStates.Store.Postgres

  @moduletag :postgres

  # One connection, so that it is known who has it.
  defp open(%{opts: opts}, timeout) do
    uri = URI.parse(opts[:url])
    port = Proxy.start(uri.port)
    opts = Keyword.put(opts, :url, URI.to_string(%{uri | port: port}))
    opts = [pool: 1, timeout: timeout] ++ opts
    context = %{name: __MODULE__, counters: [:mention_count]}
    # The timeout is that of opening too, and a machine may stall for longer.
    open = fn -> with {:error, _reason} <- Postgres.open(opts, context), do: nil end
    {:ok, store, 0} = eventually(open)
    {port, store}
  end

  test "is not used again by others after a call that timed out", context do
    {port, store} = open(context, 1_000)
    eventually(fn -> commit(Postgres, store, [row(1, 1, 1)]) == :ok end)
    before = Proxy.count(port)
    :ok = Proxy.hang(port)
    assert {:error, {:timeout, _text}} = commit(Postgres, store, [row(1, 1, 2)])
    eventually(fn -> commit(Postgres, store, [row(1, 1, 3)]) == :ok end)
    assert Proxy.count(port) > before
    :ok = Postgres.close(store)
  end

  test "is not used again by others after a call whose caller was killed", context do
    {port, store} = open(context, 30_000)
    :ok = commit(Postgres, store, [row(1, 1, 1)])
    :ok = Proxy.hang(port)
    call = Task.async(fn -> commit(Postgres, store, [row(1, 1, 2)]) end)
    eventually(fn -> Proxy.silenced?(port) end)
    Task.shutdown(call, :brutal_kill)
    next = Task.async(fn -> commit(Postgres, store, [row(1, 1, 3)]) end)
    assert Task.yield(next, 20_000) == {:ok, :ok}
    :ok = Postgres.close(store)
  end

  test "does not keep the locks of a transaction", %{opts: opts} = context do
    {port, store} = open(context, 10_000)
    :ok = commit(Postgres, store, [row(1, 1, 1), row(2, 1, 1)])
    lock = "SELECT version FROM #{opts[:table]} WHERE \"user\" = 1 FOR UPDATE"

    # Somebody is in its way until its connection hangs.
    delete =
      locked(lock, fn ->
        delete = Task.async(fn -> commit(Postgres, store, [{:delete, 1, 2}]) end)
        eventually(&waiting?/0)
        :ok = Proxy.hang(port)
        delete
      end)

    assert {:error, {:timeout, _text}} = Task.await(delete, 60_000)

    # As long as the transaction is there, this one waits: for five times the timeout at most.
    assert sql!(
             "SET lock_timeout = 50000; DELETE FROM #{opts[:table]} WHERE \"user\" = 1 RETURNING version"
           ) == "1"

    :ok = Postgres.close(store)
  end

  defp waiting? do
    sql!("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'transactionid'") != "0"
  end
end
