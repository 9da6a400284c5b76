defmodule ReadStates.FaultyStore do
  @moduledoc """
  A store in front of a real one, that a test can make hang, fail or dawdle, and that counts what it is asked.

      faults = start_supervised!({FaultyStore, self()})
      store: {FaultyStore, faults: faults, store: {ReadStates.Store.Memory, data: data}}
      FaultyStore.set(faults, :commit, {:error, :away})

  A fault of `:open`, `:load` or `:commit` is one of

    * `:hang` - calls wait until there is another fault or none;
    * `{:return, term}` - this is returned, and the store not called;
    * `{:then_return, term}` - the store is called, and this is returned all the same;
    * `{:do, fun}` - `fun` is called, and then the store;
    * `nil` - none.

  When the test process is gone there are no faults any more, so that the instance can be stopped.
  """

  @behaviour ReadStates.Store

  use GenServer

  def start_link(test), do: GenServer.start_link(__MODULE__, test)

  @doc "From now on calls have this fault; those that hang get it too."
  def set(faults, call, fault), do: GenServer.call(faults, {:set, call, fault})

  @doc "The arguments of the calls so far: options, users, batches as lists of entries. Oldest first."
  def calls(faults, call), do: GenServer.call(faults, {:calls, call})

  @doc "Forgets the calls so far."
  def forget(faults), do: GenServer.call(faults, :forget)

  @doc "How many calls hang."
  def hanging(faults, call), do: GenServer.call(faults, {:hanging, call})

  @impl ReadStates.Store
  def open(opts, context) do
    {module, options} = opts[:store]

    meet(opts[:faults], :open, options, fn ->
      with {:ok, store, floor} <- module.open(options, context) do
        {:ok, {opts[:faults], module, store}, floor}
      end
    end)
  end

  @impl ReadStates.Store
  def load({faults, module, store}, users, cursor) do
    meet(faults, :load, users, fn -> module.load(store, users, cursor) end)
  end

  @impl ReadStates.Store
  def commit({faults, module, store}, batch) do
    meet(faults, :commit, Enum.to_list(batch), fn -> module.commit(store, batch) end)
  end

  @impl ReadStates.Store
  def scan({_faults, module, store}, cursor), do: module.scan(store, cursor)

  @impl ReadStates.Store
  def close({faults, module, store}) do
    meet(faults, :close, [], fn -> module.close(store) end)
  end

  defp meet(faults, call, argument, fun) do
    case GenServer.call(faults, {:meet, call, argument}, :infinity) do
      nil -> fun.()
      {:return, term} -> term
      {:then_return, term} -> fun.() && term
      {:do, first} -> with _ <- first.(), do: fun.()
    end
  end

  @impl GenServer
  def init(test) do
    Process.monitor(test)
    {:ok, %{faults: %{}, hanging: [], calls: []}}
  end

  @impl GenServer
  def handle_call({:meet, call, argument}, from, state) do
    state = %{state | calls: [{call, argument} | state.calls]}

    case state.faults[call] do
      :hang -> {:noreply, %{state | hanging: [{call, from} | state.hanging]}}
      fault -> {:reply, fault, state}
    end
  end

  def handle_call({:set, call, fault}, _from, state) do
    {:reply, :ok, put_fault(state, call, fault)}
  end

  def handle_call({:calls, call}, _from, state) do
    {:reply, for({^call, argument} <- Enum.reverse(state.calls), do: argument), state}
  end

  def handle_call(:forget, _from, state), do: {:reply, :ok, %{state | calls: []}}

  def handle_call({:hanging, call}, _from, state) do
    alive = for {^call, {pid, _}} <- state.hanging, Process.alive?(pid), do: pid
    {:reply, length(alive), state}
  end

  @impl GenServer
  def handle_info({:DOWN, _, _, _, _}, state) do
    {:noreply, Enum.reduce([:open, :load, :commit, :close], state, &put_fault(&2, &1, nil))}
  end

  defp put_fault(state, call, fault) do
    {released, hanging} =
      Enum.split_with(state.hanging, &(fault != :hang and elem(&1, 0) == call))

    for {_call, from} <- released, do: GenServer.reply(from, fault)
    %{state | faults: Map.put(state.faults, call, fault), hanging: hanging}
  end
end
