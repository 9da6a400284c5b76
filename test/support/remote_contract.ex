defmodule ReadStates.RemoteContract do
  @moduledoc """
  What a store on a server must show beside `ReadStates.StoreContract`.

  Each function but `set_up_alone/2` is a test on a store that is open and empty, and takes its module and the store.
  """

  import ExUnit.Assertions

  alias ReadStates.{Batch, OtherVM, StoreContract}

  @calls 40

  @doc """
  Nobody in the VM waits for the server but who has called the store, also with more calls under way than there are schedulers of any kind.

  `held` calls what it is given while the server answers nobody who writes.
  """
  def holds_no_scheduler(module, store, held) do
    batch = Batch.new([StoreContract.row(1, 1, 1)], 1)

    calls =
      held.(fn ->
        calls = for _ <- 1..@calls, do: Task.async(fn -> module.commit(store, batch) end)
        # On a scheduler.
        assert 1..1_000 |> Task.async_stream(& &1) |> Enum.map(&elem(&1, 1)) |> Enum.sum() ==
                 500_500

        # On a dirty one for what waits, of which there are ten.
        assert {:ok, _stat} = File.stat(".")
        assert Enum.all?(Task.yield_many(calls, 0), fn {_call, result} -> result == nil end)
        calls
      end)

    assert calls |> Task.await_many(120_000) |> Enum.uniq() == [:ok]
  end

  @doc "Makes the tables of a store in a VM where no application is started, as in that of `bin/app eval`."
  def set_up_alone(store, opts) do
    OtherVM.run_and_kill("""
    false = List.keymember?(Application.started_applications(), :read_states, 0)
    :ok = #{inspect(store)}.set_up(#{inspect(opts)})
    """)
  end
end
