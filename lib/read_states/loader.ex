defmodule ReadStates.Loader do
  @moduledoc false
  # Loads the users of one partition: each once, however many wait, and many in one call to the
  # store. The queue of users is the engine's; the loader knows who waits.
  #
  # Of a call that has failed each user is tried alone, beside the other calls, and with pauses of its own:
  # so who cannot be loaded holds up nobody else.

  use GenServer

  alias ReadStates.{Batch, Instance, Native, Restart, StoreCalls, Suspects, Telemetry, Warning}

  @most_users 256
  # Unless the store says `c:ReadStates.Store.loads_at_once/0`. One of them at most for users nobody waits for, whose operations are to be committed:
  # those somebody waits for find room beside it.
  @most_calls 2
  # So many loads in a row are for users somebody waits for, and then it is the turn of the others. Else these would wait for as long as more
  # and more users connect, and once the dirty memory is full of their operations nobody could write any more.
  @most_in_a_row 4
  # A call to the store takes as long as it needs: readers who wait have deadlines of their own.
  @timeout 60_000
  @most_asked 1_000
  @tick 100
  # Words of the heap that are kept when nobody waits.
  @heap 100_000

  def start_link({name, partition}) do
    GenServer.start_link(__MODULE__, {name, partition},
      name: Instance.loader(name, partition),
      # When everybody connects at once, each collection would copy all of their messages.
      spawn_opt: [message_queue_data: :off_heap]
    )
  end

  # Waits until the users are resident, which the engine has said they are not.
  def await(instance, partition, users, deadline) do
    loader = Instance.loader(instance.name, partition)

    case deadline - now() do
      timeout when timeout > 0 ->
        call(instance, loader, {:await, instance.engine, users, deadline}, timeout)

      _late ->
        {:error, :timeout}
    end
  end

  # `:retry` if the loader died or was not there: the engine has the users in its queue still. Or if it is of
  # an instance that was started since, which knows nothing of this engine: then this one is gone.
  defp call(instance, loader, request, timeout) do
    with :retry <- GenServer.call(loader, request, timeout), do: retry(instance)
  catch
    :exit, {:timeout, _call} -> {:error, :timeout}
    :exit, _reason -> retry(instance)
  end

  defp retry(%{name: name, engine: engine}) do
    case Instance.find(name) do
      %{engine: ^engine} ->
        Process.sleep(1)
        :retry

      _stopped ->
        {:error, :closed}
    end
  end

  def now, do: System.monotonic_time(:millisecond)

  @impl true
  def init({name, partition}) do
    Process.flag(:trap_exit, true)
    instance = Instance.fetch!(name)
    Process.send_after(self(), :tick, @tick)

    state = %{
      instance: instance,
      partition: partition,
      calls: StoreCalls.new(instance, most: most_calls(instance), timeout: @timeout),
      # How many loads of users somebody waits for have begun since one of others did.
      in_a_row: 0,
      # Who is loaded alone, one at a time, and the loads of those whose turn comes after.
      suspects: %Suspects{},
      alone: StoreCalls.new(instance, most: 1, timeout: @timeout),
      next_alone: :queue.new(),
      # Of users who are loaded together, and of those who are loaded alone.
      warnings: %{calls: %Warning{}, alone: %Warning{}},
      # By user the callers who wait for him: `{from, deadline}`, or a reference to one in `callers` who waits for several.
      waiting: %{},
      # `{from, how many users he still waits for, deadline}`
      callers: %{},
      swept: now()
    }

    {:ok, state, {:continue, :load}}
  end

  defp most_calls(instance) do
    {module, _store} = Instance.store(instance)

    if function_exported?(module, :loads_at_once, 0),
      do: module.loads_at_once(),
      else: @most_calls
  end

  @impl true
  def handle_continue(:load, state), do: {:noreply, load(state)}

  @impl true
  def handle_call({:await, engine, _users, _deadline}, _from, state)
      when engine != state.instance.engine,
      do: {:reply, :retry, state}

  def handle_call({:await, _engine, users, deadline}, from, state) do
    case Native.absent(state.instance.engine, users) do
      [] -> {:reply, :ok, load(state)}
      absent -> {:noreply, state |> wait(absent, from, deadline) |> load()}
    end
  end

  @impl true
  def handle_info(:tick, state) do
    Process.send_after(self(), :tick, @tick)
    {:noreply, state |> sweep() |> load()}
  end

  def handle_info(:wake, state), do: {:noreply, load(state)}

  # As for every message, see Instance.wake_idle/1.
  def handle_info(message, state),
    do: {:noreply, state |> handle(message, [:calls, :alone]) |> load()}

  defp handle(state, _message, []), do: state

  defp handle(state, message, [calls | rest]) do
    case StoreCalls.handle(message, Map.fetch!(state, calls)) do
      {:done, job, result, duration, changed} ->
        state |> Map.put(calls, changed) |> loaded(calls, job, result, duration)

      {:again, changed} ->
        Map.put(state, calls, changed)

      {:ignore, _calls} ->
        handle(state, message, rest)
    end
  end

  @impl true
  def terminate(reason, _state), do: Restart.delay(reason)

  # Starts loads while there is somebody to load and room for a call.
  defp load(state), do: state |> load_together() |> load_alone()

  defp load_together(%{calls: calls} = state) do
    if StoreCalls.room?(calls), do: begin_load(state, turns(state)), else: state
  end

  # Whether to look for users somebody waits for, and then.
  defp turns(%{calls: calls, in_a_row: in_a_row}) do
    cond do
      StoreCalls.any?(calls, &(not &1.awaited)) -> [true]
      in_a_row >= @most_in_a_row -> [false, true]
      true -> [true, false]
    end
  end

  defp begin_load(state, []), do: state

  defp begin_load(%{instance: instance} = state, [awaited | turns]) do
    case Native.begin_load(instance.engine, state.partition, @most_users, awaited) do
      {nil, [], [], false} ->
        # Nobody has this turn.
        begin_load(if(awaited, do: state, else: %{state | in_a_row: 0}), turns)

      # Nobody to load, in what was looked at of the queue.
      {nil, [], settled, _more} ->
        state |> answer(settled, :ok) |> load_together()

      {load, users, settled, _more} ->
        {suspects, users} = Enum.split_with(users, &Suspects.suspect?(state.suspects, &1))

        %{state | in_a_row: if(awaited, do: state.in_a_row + 1, else: 0)}
        |> answer(settled, :ok)
        |> part(load, Enum.shuffle(suspects), awaited)
        |> start(:calls, %{load: load, users: users, awaited: awaited})
        |> load_together()
    end
  end

  defp load_alone(state) do
    with true <- StoreCalls.room?(state.alone),
         {{:value, {user, load}}, rest} <- :queue.out(state.next_alone) do
      start(%{state | next_alone: rest}, :alone, %{load: load, users: [user]})
    else
      _later -> state
    end
  end

  # Who of a load is loaded alone from here on: before the others, if somebody waits for him.
  defp part(state, _load, [], _awaited), do: state

  defp part(%{next_alone: next} = state, load, users, awaited) do
    loads = load |> Native.part_load(users) |> :queue.from_list()
    next = if awaited, do: :queue.join(loads, next), else: :queue.join(next, loads)
    %{state | next_alone: next}
  end

  defp start(state, _calls, %{users: []}), do: state

  defp start(%{instance: instance} = state, calls, %{load: load, users: users} = job) do
    read = fn -> read(instance, load, users) end
    Map.update!(state, calls, &StoreCalls.start(&1, job, read))
  end

  # In the task: the store's pages go to the engine as they come.
  defp read(instance, load, users) do
    {module, store} = Instance.store(instance)

    if function_exported?(module, :__load_into__, 2) do
      module.__load_into__(store, load)
    else
      read_pages(module, store, load, users, nil, 0)
    end
  end

  defp read_pages(module, store, load, users, cursor, entries) do
    with {:ok, %Batch{binary: page}, next} <- module.load(store, users, cursor),
         {:ok, added} <- Native.add_page(load, page) do
      case next do
        nil -> finish(load, entries + added)
        next -> read_pages(module, store, load, users, next, entries + added)
      end
    else
      {:error, reason} -> {:error, reason}
      other -> {:error, {:bad_return, other}}
    end
  end

  defp finish(load, entries) do
    with {:ok, due} <- Native.finish_load(load), do: {:ok, entries, due}
  end

  defp loaded(%{instance: instance} = state, calls, %{users: users} = job, result, duration) do
    {entries, outcome} =
      case result do
        {:ok, entries, _due} -> {entries, :ok}
        {:error, reason} -> {0, {:error, reason}}
      end

    measurements = %{duration: duration, users: length(users), entries: entries}
    Telemetry.execute(instance, :load, measurements, %{result: outcome})

    case result do
      {:ok, _entries, due} ->
        if due, do: Instance.tell(committer(state), :loaded)
        state = if Suspects.store_away?(state.suspects), do: resume(state), else: state
        state = update_in(state.warnings[calls], &Warning.over/1)
        answer(%{state | suspects: Suspects.loaded(state.suspects, users)}, users, :ok)

      {:error, reason} ->
        state |> log_failure(calls, users, reason) |> failed(calls, job, reason)
    end
  end

  # The store is back. Whoever is to blame for the failures of before still is, so these pauses go on growing.
  defp resume(%{calls: calls, alone: alone} = state),
    do: %{state | calls: StoreCalls.resume(calls), alone: StoreCalls.end_pause(alone)}

  # One of them may be to blame, and only he is to wait. In no order: else those after some who are would never be tried.
  defp failed(%{suspects: suspects} = state, :calls, %{load: load, users: users} = job, reason) do
    if Suspects.store_away?(suspects) do
      give_up(state, load, users, reason)
    else
      state = %{state | suspects: Suspects.add(suspects, users)}

      if match?([_], users),
        do: give_up(state, load, users, reason),
        else: part(state, load, Enum.shuffle(users), job.awaited)
    end
  end

  defp failed(state, :alone, %{load: load, users: [user]}, reason) do
    suspects = Suspects.failed_alone(state.suspects, user)
    state = give_up(%{state | suspects: suspects}, load, [user], reason)

    if Suspects.store_away?(suspects) do
      others = for {user, load} <- :queue.to_list(state.next_alone), do: {load, [user]}
      give_up(%{state | next_alone: :queue.new()}, others, reason)
    else
      state
    end
  end

  defp give_up(state, load, users, reason), do: give_up(state, [{load, users}], reason)

  defp give_up(state, loads, reason) do
    # Who waits for a commit of theirs would wait in vain.
    due = Enum.filter(loads, fn {load, _users} -> Native.fail_load(load) end)
    if due != [], do: Instance.tell(committer(state), :load_failed)
    answer(state, Enum.flat_map(loads, &elem(&1, 1)), {:error, read_error(reason)})
  end

  # The call took too long, or the store says so of a request of its own, with a text; or one of two stores does.
  defp read_error(:timeout), do: :timeout
  defp read_error({:timeout, _text}), do: :timeout
  defp read_error({which, reason}) when which in [:from, :to], do: read_error(reason)
  defp read_error(_reason), do: :store_unavailable

  defp committer(state), do: Instance.committer(state.instance.name, state.partition)

  defp log_failure(state, calls, users, reason) do
    who = if match?([_], users), do: "user #{hd(users)}", else: "#{length(users)} users"
    update_in(state.warnings[calls], &Warning.log(&1, state.instance, "load #{who}", reason))
  end

  defp wait(state, [user], from, deadline), do: add_waiter(state, user, {from, deadline})

  defp wait(state, users, from, deadline) do
    caller = make_ref()
    callers = Map.put(state.callers, caller, {from, length(users), deadline})
    Enum.reduce(users, %{state | callers: callers}, &add_waiter(&2, &1, caller))
  end

  defp add_waiter(%{waiting: waiting} = state, user, caller),
    do: %{state | waiting: Map.update(waiting, user, [caller], &[caller | &1])}

  # Those who waited for these users, and for nobody else any more, get their answer.
  defp answer(state, users, answer) do
    {waiting, callers} =
      Enum.reduce(users, {state.waiting, state.callers}, fn user, {waiting, callers} ->
        {waiters, waiting} = Map.pop(waiting, user, [])
        {waiting, Enum.reduce(waiters, callers, &answer_caller(&1, &2, answer))}
      end)

    %{state | waiting: waiting, callers: callers}
  end

  defp answer_caller({from, _deadline}, callers, answer) do
    GenServer.reply(from, answer)
    callers
  end

  defp answer_caller(caller, callers, answer) do
    case callers do
      %{^caller => {from, rest, deadline}} when answer == :ok and rest > 1 ->
        %{callers | caller => {from, rest - 1, deadline}}

      %{^caller => {from, _rest, _deadline}} ->
        GenServer.reply(from, answer)
        Map.delete(callers, caller)

      _answered ->
        callers
    end
  end

  # Once a second: forgets callers who have given up or died, and asks the engine again for users who
  # are in no load of this loader, which may have followed one that died.
  defp sweep(%{swept: swept} = state) do
    now = now()

    cond do
      now - swept < 1_000 ->
        state

      state.waiting == %{} ->
        shrink()
        %{state | swept: now}

      true ->
        state = forget(state, now)
        chunks = state.waiting |> Map.keys() |> Enum.chunk_every(@most_asked)
        resident = Enum.flat_map(chunks, &(&1 -- Native.absent(state.instance.engine, &1)))
        answer(%{state | swept: now}, resident, :ok)
    end
  end

  # As long as very many wait, nearly all of them have just come and go on waiting: their lists are left as they are.
  defp forget(%{waiting: waiting} = state, now) do
    callers =
      Map.filter(state.callers, fn {_caller, {from, _rest, deadline}} ->
        waits?(from, deadline, now)
      end)

    waits? = fn
      {from, deadline} -> waits?(from, deadline, now)
      caller -> is_map_key(callers, caller)
    end

    waiting =
      for {user, waiters} <- waiting, not Enum.all?(waiters, waits?), reduce: waiting do
        waiting ->
          case Enum.filter(waiters, waits?) do
            [] -> Map.delete(waiting, user)
            waiters -> %{waiting | user => waiters}
          end
      end

    %{state | waiting: waiting, callers: callers}
  end

  defp waits?({pid, _tag}, deadline, now), do: deadline > now and Process.alive?(pid)

  # What is left of very many who waited is some ten megabytes, which nothing would free until as much has come again.
  defp shrink do
    {:total_heap_size, words} = Process.info(self(), :total_heap_size)
    if words > @heap, do: :erlang.garbage_collect()
  end
end
