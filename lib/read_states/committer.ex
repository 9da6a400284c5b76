defmodule ReadStates.Committer do
  @moduledoc false
  # Commits one partition: takes from the engine what is due, has the store write it, and tells
  # the engine what is durable.

  use GenServer

  alias ReadStates.{Batch, Instance, Native, Restart, StoreCalls, Telemetry, Warning}

  @most_entries 10_000
  # One entry of many may be why the store refuses all of them, or there are more than a slow store writes in time. So after a
  # failure one is committed, and after each success so many times as many: who is to blame fails by himself sooner or
  # later, and holds up nobody else for long.
  @more 4
  @most_calls 1
  @timeout 60_000

  def start_link({name, partition}) do
    GenServer.start_link(__MODULE__, {name, partition}, name: Instance.committer(name, partition))
  end

  # The answer, for `:gen_server.receive_response/2`, is :ok when everything the partition had
  # accepted before is durable.
  def request_commit(name, partition) do
    :gen_server.send_request(Instance.committer(name, partition), :commit)
  end

  @impl true
  def init({name, partition}) do
    Process.flag(:trap_exit, true)
    instance = Instance.fetch!(name)

    state = %{
      instance: instance,
      partition: partition,
      calls: StoreCalls.new(instance, most: @most_calls, timeout: @timeout),
      tick: tick(instance.options.commit_after),
      most_entries: @most_entries,
      # Whether to go on as soon as the commit or the pause under way is over.
      again: false,
      warning: %Warning{},
      # Who asked for a commit, with the flush each waits for, in the order in which they are done.
      flushes: :queue.new()
    }

    {:ok, state, {:continue, :commit}}
  end

  # Often enough that a deadline is met to about a tenth of the delay, and that a commit is no burst of work for the machine.
  defp tick(commit_after), do: commit_after |> div(10) |> max(10) |> min(100)

  # Not of all partitions at the same time, to begin with.
  @impl true
  def handle_continue(:commit, %{tick: tick, partition: partition} = state) do
    Process.send_after(self(), :tick, div(tick * (partition + 1), Instance.partitions()))
    {:noreply, commit(state)}
  end

  @impl true
  def handle_call(:commit, from, state) do
    flush = Native.flush(state.instance.engine, state.partition)
    state = commit(%{state | flushes: :queue.in({from, flush}, state.flushes)})
    {:noreply, answer_flushed(state)}
  end

  @impl true
  def handle_info(:tick, state) do
    Process.send_after(self(), :tick, state.tick)
    {:noreply, state |> forget_dead() |> commit() |> answer_flushed()}
  end

  def handle_info(:wake, state), do: {:noreply, state |> commit() |> answer_flushed()}

  # Users who were due and had to be loaded. They come some at a time.
  def handle_info(:loaded, state) do
    {:noreply, if(waited_for?(state), do: state |> commit() |> answer_flushed(), else: state)}
  end

  def handle_info(:load_failed, state), do: {:noreply, answer_failed(state, :store_unavailable)}

  # What of an earlier life cannot be read is not committed until it can.
  def handle_info(:recovery_failed, state), do: {:noreply, answer_failed(state, :journal_failed)}

  def handle_info(message, state) do
    case StoreCalls.handle(message, state.calls) do
      {:done, job, result, duration, calls} ->
        state = committed(%{state | calls: calls}, job, result, duration)
        state = if state.again or waited_for?(state), do: commit(state), else: wake_loader(state)
        {:noreply, answer_flushed(state)}

      {:again, calls} ->
        {:noreply, commit(%{state | calls: calls})}

      {:ignore, calls} ->
        {:noreply, %{state | calls: calls}}
    end
  end

  @impl true
  def terminate(reason, _state), do: Restart.delay(reason)

  # Each commit waits for the disk, however little it writes. So what falls due while one is under way is committed with
  # the next tick, unless somebody or something waits for it.
  defp waited_for?(%{flushes: flushes, instance: %{engine: engine}}) do
    not :queue.is_empty(flushes) or Native.wants_commits(engine) or Native.is_recovering(engine)
  end

  # Starts a commit if something is due, at once or after the one under way.
  defp commit(%{instance: instance, calls: calls} = state) do
    if StoreCalls.room?(calls) do
      begun = Native.begin_commit(instance.engine, state.partition, state.most_entries)
      start(wake_loader(%{state | again: false}), begun)
    else
      %{state | again: true}
    end
  end

  # Users who are due and not resident have been queued, or had to wait until a commit had made room in the dirty memory.
  defp wake_loader(%{instance: instance, partition: partition} = state) do
    if Native.load_queue(instance.engine) > 0 do
      Instance.wake_idle(Instance.loader(instance.name, partition))
    end

    state
  end

  defp start(state, nil), do: state

  defp start(%{instance: instance, calls: calls} = state, {commit, batch, users, entries}) do
    write = fn -> write(instance, commit, batch) end
    calls = StoreCalls.start(calls, {commit, users, entries}, write)
    # There may be more than there was room for.
    %{state | calls: calls, again: entries >= state.most_entries}
  end

  # In the task.
  defp write(instance, commit, batch) do
    {module, store} = Instance.store(instance)

    with :ok <- write_ahead(instance.options.journal, commit) do
      case module.commit(store, %Batch{binary: batch}) do
        :ok -> {:ok, Native.commit_succeeded(commit)}
        {:error, reason} -> {:error, reason}
        other -> {:error, {:bad_return, other}}
      end
    end
  end

  defp write_ahead(nil, _commit), do: :ok

  # The store must not have what the journal has not.
  defp write_ahead(_journal, commit) do
    case Native.write_ahead(commit) do
      :ok -> :ok
      :stale -> {:error, :stale}
      {:error, text} -> {:error, {:journal, text}}
    end
  end

  defp committed(state, {commit, users, entries}, result, duration) do
    outcome = with {:ok, _settled} <- result, do: :ok
    measurements = %{duration: duration, users: users, entries: entries}
    Telemetry.execute(state.instance, :commit, measurements, %{result: outcome})

    case outcome do
      :ok ->
        most_entries = min(state.most_entries * @more, @most_entries)
        %{state | most_entries: most_entries, warning: Warning.over(state.warning)}

      {:error, reason} ->
        Native.commit_failed(commit)

        state
        |> log_failure(entries, reason)
        |> Map.put(:most_entries, 1)
        |> answer_failed(commit_error(reason))
    end
  end

  defp commit_error({:journal, _text}), do: :journal_failed
  defp commit_error(_reason), do: :store_unavailable

  defp log_failure(%{instance: instance, warning: warning} = state, entries, reason) do
    %{state | warning: Warning.log(warning, instance, "commit #{entries} entries", reason)}
  end

  # Only the first one that is not done is asked for, however many wait.
  defp answer_flushed(%{instance: %{engine: engine}} = state) do
    with {:value, {from, flush}} <- :queue.peek(state.flushes),
         true <- Native.is_flushed(engine, state.partition, flush) do
      GenServer.reply(from, :ok)
      answer_flushed(%{state | flushes: :queue.drop(state.flushes)})
    else
      _nobody_or_not_yet -> state
    end
  end

  # What failed stays dirty and is tried again, but who asked need not wait for that.
  defp answer_failed(state, reason) do
    for {from, _flush} <- :queue.to_list(state.flushes) do
      GenServer.reply(from, {:error, reason})
    end

    %{state | flushes: :queue.new()}
  end

  # Callers are of this node, for its name means nothing on another.
  defp forget_dead(state) do
    alive? = fn {{caller, _tag}, _flush} -> Process.alive?(caller) end
    %{state | flushes: :queue.filter(alive?, state.flushes)}
  end
end
