defmodule ReadStates.StoreCallsTest do
  use ReadStates.InstanceCase, async: true

  # The test process is in the place of a loader or a committer.

  alias ReadStates.{Instance, StoreCalls}

  setup %{name: name} do
    start!(name)
    Process.flag(:trap_exit, true)
    %{calls: StoreCalls.new(Instance.fetch!(name), most: 1, timeout: 50)}
  end

  # With a timeout that is not the subject.
  defp patient(calls), do: %{calls | timeout: 60_000}

  # What the next message means that is not the end of a pause.
  defp answer(calls) do
    with {:again, calls} <- next(calls), do: answer(calls)
  end

  # What the next message means that means something.
  defp next(calls) do
    message =
      receive do
        message -> message
      after
        10_000 -> flunk("no message comes")
      end

    with {:ignore, calls} <- StoreCalls.handle(message, calls), do: next(calls)
  end

  defp hang(test, patience) do
    send(test, {:hangs, self()})
    Process.sleep(patience)
  end

  test "one that takes too long has failed, and there is no room until it has ended", %{
    calls: calls
  } do
    test = self()
    calls = StoreCalls.start(calls, :job, fn -> hang(test, :infinity) end)
    assert_receive {:hangs, task}, 10_000
    refute StoreCalls.room?(calls)
    assert {:done, :job, {:error, :timeout}, _duration, calls} = next(calls)
    refute StoreCalls.room?(calls)
    # Once it is dead, and once the pause after a failure is over.
    assert {:again, calls} = next(calls)
    assert {:again, calls} = next(calls)
    refute Process.alive?(task)
    assert StoreCalls.room?(calls)
  end

  test "an answer that comes too late, or twice, means nothing", %{calls: calls} do
    test = self()
    calls = StoreCalls.start(calls, :job, fn -> hang(test, :infinity) end)
    [ref] = Map.keys(calls.calls)
    assert {:done, :job, {:error, :timeout}, _duration, calls} = next(calls)
    # It was sent before the task was killed.
    assert {:again, calls} = StoreCalls.handle({ref, :ok}, calls)
    assert {:ignore, calls} = StoreCalls.handle({ref, :ok}, calls)
    assert {:ignore, calls} = StoreCalls.handle({:timeout, ref}, calls)
    assert {:again, calls} = next(calls)

    calls = StoreCalls.start(patient(calls), :other, fn -> :ok end)
    [other] = Map.keys(calls.calls)
    assert {:done, :other, :ok, _duration, calls} = next(calls)
    assert {:ignore, calls} = StoreCalls.handle({other, :ok}, calls)
    assert {:ignore, calls} = StoreCalls.handle({:timeout, other}, calls)
    assert {:ignore, calls} = StoreCalls.handle({:DOWN, other, :process, self(), :normal}, calls)
    assert StoreCalls.room?(calls)
  end

  test "after each failure the pause is longer, up to some seconds, until one succeeds", %{
    calls: calls
  } do
    fail = fn calls ->
      calls = StoreCalls.start(%{calls | paused: false}, :job, fn -> {:error, :away} end)
      assert {:done, :job, {:error, :away}, _duration, calls} = answer(calls)
      assert calls.paused
      calls
    end

    calls = Enum.reduce(1..20, patient(calls), fn _time, calls -> fail.(calls) end)
    assert calls.backoff.failures == 20
    assert {delay, _backoff} = ReadStates.Backoff.failed(calls.backoff)
    assert delay in 2_500..5_000
    calls = StoreCalls.start(%{calls | paused: false}, :job, fn -> :ok end)
    assert {:done, :job, :ok, _duration, %{backoff: %{failures: 0}}} = answer(calls)
  end
end
