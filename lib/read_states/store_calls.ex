defmodule ReadStates.StoreCalls do
  @moduledoc false
  # The calls to the store that a loader or a committer has under way: each in a task of its
  # own, a bounded number at a time, each for a limited time, and none while the store fails. Whatever
  # goes wrong in one is an error.
  #
  # A call that takes too long counts as failed, and its task is killed. A store written in Rust
  # bounds by itself what may go on after that, see native/nif/src/stores.rs.

  alias ReadStates.{Backoff, Instance, Secret}

  defstruct [
    :tasks,
    :store_options,
    :most,
    :timeout,
    calls: %{},
    backoff: %Backoff{},
    # Or the pause that is under way.
    paused: false
  ]

  def new(%{name: name, options: %{store: {_module, store_options}}}, opts) do
    %__MODULE__{
      tasks: Instance.tasks(name),
      store_options: store_options,
      most: opts[:most],
      timeout: opts[:timeout]
    }
  end

  def room?(%{paused: paused, calls: calls, most: most}) do
    paused == false and map_size(calls) < most
  end

  # Whether `fun` is true for the job of a call under way.
  def any?(%{calls: calls}, fun) do
    Enum.any?(calls, fn {_ref, %{job: job}} -> job != nil and fun.(job) end)
  end

  # Runs `fun`, which belongs to `job`.
  def start(%{calls: calls} = state, job, fun) do
    options = state.store_options
    task = Task.Supervisor.async(state.tasks, fn -> Secret.guard(options, fun) end)
    timer = Process.send_after(self(), {:timeout, task.ref}, state.timeout)
    call = %{job: job, pid: task.pid, timer: timer, since: System.monotonic_time()}
    %{state | calls: Map.put(calls, task.ref, call)}
  end

  # Ends a pause, for who knows that the store does not fail any more.
  def resume(state), do: %{end_pause(state) | backoff: Backoff.succeeded(state.backoff)}

  # As that, but the next pause is longer still.
  def end_pause(state), do: %{state | paused: false}

  # What a message means: {:done, job, result, duration}, {:again} or nothing.
  def handle({ref, result}, %{calls: calls} = state) when is_map_key(calls, ref) do
    Process.demonitor(ref, [:flush])
    {call, calls} = Map.pop!(calls, ref)
    Process.cancel_timer(call.timer)
    finish(%{state | calls: calls}, call, result)
  end

  def handle({:DOWN, ref, :process, _pid, reason}, %{calls: calls} = state)
      when is_map_key(calls, ref) do
    {call, calls} = Map.pop!(calls, ref)
    state = %{state | calls: calls}

    case call do
      %{job: nil} ->
        {:again, state}

      _call ->
        Process.cancel_timer(call.timer)
        reason = Secret.hide({:exit, reason}, state.store_options)
        finish(state, call, {:error, reason})
    end
  end

  def handle({:timeout, ref}, %{calls: calls} = state) when is_map_key(calls, ref) do
    call = Map.fetch!(calls, ref)
    Process.exit(call.pid, :kill)
    state = %{state | calls: Map.put(calls, ref, %{call | job: nil})}
    finish(state, call, {:error, :timeout})
  end

  def handle({:resume, pause}, %{paused: pause} = state),
    do: {:again, %{state | paused: false}}

  # For example of a task that was killed, or of a timer that was too late to cancel.
  def handle(_other, state), do: {:ignore, state}

  defp finish(state, %{job: nil}, _late_result), do: {:again, state}

  defp finish(state, call, result) do
    duration = System.monotonic_time() - call.since
    {:done, call.job, result, duration, pace(state, result)}
  end

  defp pace(%{paused: false} = state, {:error, _reason}) do
    {delay, backoff} = Backoff.failed(state.backoff)
    pause = make_ref()
    Process.send_after(self(), {:resume, pause}, delay)
    %{state | backoff: backoff, paused: pause}
  end

  defp pace(state, {:error, _reason}), do: state
  defp pace(state, _done), do: %{state | backoff: Backoff.succeeded(state.backoff)}
end
