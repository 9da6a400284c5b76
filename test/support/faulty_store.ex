defmodule ReadStates.FaultyStore do
  @moduledoc """
  A store in front of any real one that a test can make fail in every way in which a store fails. It counts what it is asked.

      faults = start_supervised!({FaultyStore, self()})
      store: {FaultyStore, faults: faults, store: {ReadStates.Store.Memory, data: data}}
      FaultyStore.set(faults, :commit, {:return, {:error, :away}})

  A fault of `:open`, `:load`, `:commit` or `:close` is one of

    * `:hang` - calls wait until there is another fault or none;
    * `{:slow, ms}` - the store is called after this time;
    * `{:return, term}` - this is returned, and the store not called;
    * `{:then_return, term}` - the store is called, and this is returned all the same;
    * `{:late, ms}` - the caller is killed, as an instance does when it has waited for too long, and the store is called
      after this time all the same;
    * `:twice` - the store is called twice;
    * `{:again, ms}` - the store is called, and once more after this time, whatever was called between;
    * `{:do, fun}` - `fun` is called, and then the store;
    * `{:then_do, fun}` - the store is called, and then `fun`, whose value is returned;
    * `{:of, users, fault}` - loads and commits of some of these users have this fault, and others none;
    * `nil` - none.

  And of several calls, one after the other:

    * `{:script, faults}` - each call has the next of them, and then there is none;
    * `{:random, seed}` - each call has one that follows from the seed.

  When the test process is gone there are no faults any more, so that the instance can be stopped. With `record: false`
  among the store's options, the arguments of calls are not kept.
  """

  @behaviour ReadStates.Store

  use GenServer

  def start_link(test, opts \\ []), do: GenServer.start_link(__MODULE__, test, opts)

  @doc "From now on calls have this fault; those that hang get it too."
  def set(faults, call, fault), do: GenServer.call(faults, {:set, call, fault}, :infinity)

  @doc "The store is away for this time: loads and commits have this fault, and after that none."
  def away(faults, ms, fault \\ {:return, {:error, :away}}) do
    for call <- [:load, :commit] do
      :ok = set(faults, call, fault)
      Process.send_after(faults, {:set, call, nil}, ms)
    end

    :ok
  end

  @doc "The arguments of the calls so far: options, users, batches as lists of entries. Oldest first."
  def calls(faults, call), do: GenServer.call(faults, {:calls, call}, :infinity)

  @doc "Forgets the calls so far."
  def forget(faults), do: GenServer.call(faults, :forget, :infinity)

  @doc "How many calls hang."
  def hanging(faults, call), do: GenServer.call(faults, {:hanging, call}, :infinity)

  @doc "How many late calls of the store are still to come."
  def late(faults), do: GenServer.call(faults, :late, :infinity)

  @impl ReadStates.Store
  def open(opts, context) do
    {module, options} = opts[:store]
    record = Keyword.get(opts, :record, true)
    handle = %{faults: opts[:faults], module: module, store: nil, record: record}

    meet(handle, :open, options, fn ->
      with {:ok, store, floor} <- module.open(options, context) do
        {:ok, %{handle | store: store}, floor}
      end
    end)
  end

  @impl ReadStates.Store
  def load(%{module: module, store: store} = handle, users, cursor) do
    meet(handle, :load, users, fn -> module.load(store, users, cursor) end)
  end

  @impl ReadStates.Store
  def commit(%{module: module, store: store} = handle, batch) do
    meet(handle, :commit, batch, fn -> module.commit(store, batch) end)
  end

  @impl ReadStates.Store
  def scan(%{module: module, store: store}, cursor), do: module.scan(store, cursor)

  @impl ReadStates.Store
  def close(%{module: module, store: store} = handle) do
    meet(handle, :close, [], fn -> module.close(store) end)
  end

  defp meet(%{faults: faults, record: record}, call, argument, fun) do
    fault = GenServer.call(faults, {:meet, call, if(record, do: {:ok, argument})}, :infinity)
    carry_out(fault, faults, argument, fun)
  end

  defp carry_out(fault, faults, argument, fun) do
    case fault do
      nil ->
        fun.()

      {:of, users, fault} ->
        if Enum.any?(argument, &(user(&1) in users)),
          do: carry_out(fault, faults, argument, fun),
          else: fun.()

      {:slow, ms} ->
        Process.sleep(ms) && fun.()

      {:return, term} ->
        term

      {:then_return, term} ->
        fun.() && term

      {:then_do, then} ->
        fun.() && then.()

      {:late, ms} ->
        later(faults, ms, fun) && Process.exit(self(), :kill)

      :twice ->
        fun.() && fun.()

      {:again, ms} ->
        later(faults, ms, fun) && fun.()

      {:do, first} ->
        with _ <- first.(), do: fun.()
    end
  end

  # Of what a load or a commit is asked.
  defp user(%ReadStates.Row{user: user}), do: user
  defp user(delete) when is_tuple(delete), do: elem(delete, 1)
  defp user(user), do: user

  defp later(faults, ms, fun), do: GenServer.call(faults, {:later, ms, fun}, :infinity)

  @impl GenServer
  def init(test) do
    Process.monitor(test)
    {:ok, %{faults: %{}, hanging: [], calls: [], late: MapSet.new()}}
  end

  @impl GenServer
  def handle_call({:meet, call, argument}, from, state) do
    state = record(state, call, argument)

    case next(state.faults[call]) do
      {:hang, rest} ->
        state = put_in(state.faults[call], rest)
        {:noreply, %{state | hanging: [{call, from} | state.hanging]}}

      {fault, rest} ->
        {:reply, fault, put_in(state.faults[call], rest)}
    end
  end

  def handle_call({:later, ms, fun}, _from, state) do
    {_pid, monitor} = spawn_monitor(fn -> Process.sleep(ms) && fun.() end)
    {:reply, :ok, %{state | late: MapSet.put(state.late, monitor)}}
  end

  def handle_call(:late, _from, state), do: {:reply, MapSet.size(state.late), state}

  def handle_call({:set, call, fault}, _from, state) do
    {:reply, :ok, put_fault(state, call, begin(fault))}
  end

  def handle_call({:calls, call}, _from, state) do
    {:reply, for({^call, argument} <- Enum.reverse(state.calls), do: shown(argument)), state}
  end

  def handle_call(:forget, _from, state), do: {:reply, :ok, %{state | calls: []}}

  def handle_call({:hanging, call}, _from, state) do
    alive = for {^call, {pid, _}} <- state.hanging, Process.alive?(pid), do: pid
    {:reply, length(alive), state}
  end

  @impl GenServer
  def handle_info({:set, call, fault}, state), do: {:noreply, put_fault(state, call, fault)}

  def handle_info({:DOWN, monitor, _, _, _}, state) do
    if monitor in state.late do
      {:noreply, %{state | late: MapSet.delete(state.late, monitor)}}
    else
      {:noreply, Enum.reduce([:open, :load, :commit, :close], state, &put_fault(&2, &1, nil))}
    end
  end

  # Only now, for there may be very many, of whom nobody asks.
  defp shown(%ReadStates.Batch{} = batch), do: Enum.to_list(batch)
  defp shown(argument), do: argument

  defp record(state, _call, nil), do: state

  defp record(state, call, {:ok, argument}),
    do: %{state | calls: [{call, argument} | state.calls]}

  # The fault of a call, and what is left for those to come.
  defp next({:script, []}), do: {nil, nil}
  defp next({:script, [fault | rest]}), do: {fault, {:script, rest}}

  defp next({:random, random}) do
    {what, random} = :rand.uniform_s(20, random)
    {ms, random} = :rand.uniform_s(100, random)
    {random_fault(what, ms), {:random, random}}
  end

  defp next(fault), do: {fault, fault}

  defp random_fault(1, _ms), do: {:return, {:error, :away}}
  defp random_fault(2, _ms), do: {:then_return, {:error, :away}}
  defp random_fault(3, ms), do: {:slow, ms}
  defp random_fault(4, ms), do: {:late, ms}
  defp random_fault(5, _ms), do: :twice
  defp random_fault(6, ms), do: {:again, ms}
  defp random_fault(7, _ms), do: {:do, fn -> raise "away" end}
  defp random_fault(8, _ms), do: {:do, fn -> exit(:away) end}
  defp random_fault(9, _ms), do: {:do, fn -> Process.exit(self(), :kill) end}
  defp random_fault(_what, _ms), do: nil

  defp of_one_call({kind, _faults}) when kind in [:script, :random], do: nil
  defp of_one_call(fault), do: fault

  defp begin({:random, seed}), do: {:random, :rand.seed_s(:exsss, seed)}
  defp begin(fault), do: fault

  defp put_fault(state, call, fault) do
    {released, hanging} =
      Enum.split_with(state.hanging, &(fault != :hang and elem(&1, 0) == call))

    for {_call, from} <- released, do: GenServer.reply(from, of_one_call(fault))
    %{state | faults: Map.put(state.faults, call, fault), hanging: hanging}
  end
end
