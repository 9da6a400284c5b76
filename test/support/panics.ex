defmodule ReadStates.Panics do
  @moduledoc """
  A VM whose NIF panics in the engine and the journal, at one of so many fail points (native/sync/src/fail_point.rs), while several processes
  call it, and also while it loads and commits.

  Each process has users of its own. When a call raises, what it asked for may be done or not, of each user in its order: a
  read says how far it is. Whatever else is read has to be what was written.
  """

  import ReadStates.Eventually

  alias ReadStates.{Call, Instance, Model, OtherVM, StoreContract}
  alias ReadStates.Store.Local

  @processes 8
  @users 4
  @channels 12
  @calls 20_000
  # All that go to the NIF on the caller's time.
  @functions [:ack, :increment, :decrement, :put, :delete, :update, :get, :list, :total, :load]
  @patience 300_000
  # Of so many fail points one panics, for so many milliseconds, and then none: what goes through all shards passes hundreds,
  # and has to come through now and then.
  @one_of 97
  @storm 20
  @calm 400
  # How long all of them panic: several times as long as the supervisor counts restarts, and until each of these has died twice,
  # but not for longer than that.
  @outage 5_000
  @longest 60_000
  @roles ~w(Loader0 Loader1 Committer0 Committer1 Steward Archivist)

  @doc """
  Builds the NIF, and lets the VM live in `directory` until its processes have made their calls. Returns how often each
  function raised, of which none is 0. Raises with what was wrong.
  """
  def run(directory), do: run(directory, :live)

  @doc """
  Likewise, but for some seconds every fail point panics, so that the processes of the instance die of whatever they do, and
  then none. Returns how many seconds that took, and how often each of those who call the engine was started meanwhile.
  """
  def run_through(directory), do: run(directory, :live_through)

  defp run(directory, life) do
    trigger = Path.join(directory, "panic")

    vm =
      OtherVM.start("ReadStates.Panics.#{life}(#{inspect(directory)}, #{inspect(trigger)})",
        ebin: library(directory),
        env: [{"READ_STATES_FAIL_POINTS", trigger}, {"RUST_BACKTRACE", "0"}]
      )

    OtherVM.await(vm, "all of it ran")
    OtherVM.kill(vm)
    directory |> Path.join("result") |> File.read!() |> :erlang.binary_to_term()
  end

  # The library with another NIF: never that which is used otherwise.
  defp library(directory) do
    root = Path.join(directory, "lib/read_states")
    nif = Path.join(root, "priv/native/read_states_nif.so")
    File.mkdir_p!(Path.dirname(nif))
    File.cp!(build(), nif)
    ebin = Path.join(root, "ebin")
    File.ln_s!(Application.app_dir(:read_states, "ebin"), ebin)
    ebin
  end

  # In the profile of development, which shares what `cargo test` has built.
  defp build do
    cargo = System.find_executable("cargo") || Path.expand("~/.cargo/bin/cargo")

    args =
      ~w(build --quiet --locked --package read_states_nif --features fail_points) ++
        ~w(--message-format json-render-diagnostics)

    {messages, 0} = System.cmd(cargo, args)
    [_, path] = Regex.run(~r/"name":"read_states_nif".*"filenames":\["([^"]+)"/, messages)
    path
  end

  # From here on: in the VM whose NIF panics.

  @doc false
  def live(directory, trigger) do
    {options, supervisor} = start(directory)
    raised = :counters.new(length(@functions), [])
    storms = Task.async(fn -> storm(trigger) end)
    tasks = for at <- 1..@processes, do: Task.async(fn -> work(at, raised) end)
    models = Task.await_many(tasks, @patience)
    send(storms.pid, :stop)
    :stop = Task.await(storms, :infinity)
    true = Process.alive?(supervisor)

    expected = models |> Enum.map(& &1.users) |> Enum.reduce(&Map.merge/2)
    ^expected = read_all()
    :ok = ReadStates.commit(__MODULE__)
    ^expected = stored()
    %{pending_operations: 0, dirty_users: 0, dirty_memory: 0} = ReadStates.stats(__MODULE__)
    true = ReadStates.stats(__MODULE__).evictions > 10

    Supervisor.stop(supervisor)
    {:ok, _again} = ReadStates.start_link(options)
    ^expected = read_all()

    counts =
      for {function, at} <- Enum.with_index(@functions, 1),
          do: {function, :counters.get(raised, at)}

    finish(directory, counts)
  end

  @doc false
  def live_through(directory, trigger) do
    {_options, supervisor} = start(directory)
    loaders = for partition <- 0..1, do: Instance.loader(__MODULE__, partition)

    # Who crosses the shards has something to do in each of them, and so have the loaders, however soon they would have done it.
    Enum.each(loaders, &:sys.suspend(&1, :infinity))
    for n <- 1..1_000, do: :ok = ReadStates.ack(__MODULE__, n, 1, n)
    eventually(fn -> ReadStates.stats(__MODULE__).load_queue == 1_000 end)

    pids = for role <- @roles, into: %{}, do: {Module.concat(__MODULE__, role), MapSet.new()}
    began = System.monotonic_time(:millisecond)
    panic(trigger, 1)
    Enum.each(loaders, &:sys.resume(&1, :infinity))
    pids = watch(pids, began)
    File.rm!(trigger)
    seconds = div(System.monotonic_time(:millisecond) - began, 1_000)
    true = Process.alive?(supervisor)

    :ok = ReadStates.commit(__MODULE__)
    {:ok, %{last_message_id: 7}} = ReadStates.get(__MODULE__, 7, 1)
    1_000 = map_size(stored())
    started = for {process, pids} <- pids, into: %{}, do: {process, MapSet.size(pids)}
    finish(directory, {seconds, started})
  end

  # The pids that the processes have in the outage, while all kinds of calls raise.
  defp watch(pids, began) do
    if over?(pids, System.monotonic_time(:millisecond) - began) do
      pids
    else
      :raised = attempt({:increment, 1, 1, 1, 1})
      :raised = attempt({:list, 1})
      Instance.wake(Instance.fetch!(__MODULE__))
      Process.sleep(5)

      pids
      |> Map.new(fn {process, pids} ->
        pid = Process.whereis(process)
        {process, if(pid, do: MapSet.put(pids, pid), else: pids)}
      end)
      |> watch(began)
    end
  end

  defp over?(pids, passed) do
    died? = Enum.all?(pids, fn {_process, pids} -> MapSet.size(pids) >= 3 end)
    passed > @longest or (passed > @outage and died?)
  end

  defp start(directory) do
    {:ok, _started} = Application.ensure_all_started(:logger)
    # What dies of a panic says so, often.
    Logger.configure(level: :none)

    options = [
      name: __MODULE__,
      store: {Local, path: Path.join(directory, "store")},
      # So that users come and go all the time.
      capacity: div(@processes * @users * @channels, 3),
      commit_after: 20,
      load_timeout: 60_000
    ]

    {:ok, supervisor} = ReadStates.start_link(options)
    {options, supervisor}
  end

  defp finish(directory, result) do
    File.write!(Path.join(directory, "result"), :erlang.term_to_binary(result))
    IO.puts("all of it ran")
    Process.sleep(:infinity)
  end

  # All at once: what is half written is no number.
  defp panic(trigger, one_of) do
    File.write!(trigger <> ".new", "#{one_of}")
    File.rename!(trigger <> ".new", trigger)
  end

  defp storm(trigger) do
    panic(trigger, @one_of)
    Process.sleep(@storm)
    File.rm!(trigger)

    receive do
      :stop -> :stop
    after
      @calm -> storm(trigger)
    end
  end

  # The model of the process's users after all its calls: so many, and more until each function has raised.
  defp work(process, raised) do
    :rand.seed(:exsss, process)
    work(process, raised, %Model{}, @calls)
  end

  defp work(process, raised, model, left) do
    if left > 0 or Enum.any?(1..length(@functions), &(:counters.get(raised, &1) == 0)) do
      call = call(process)
      operations = Call.operations(call)

      model =
        case attempt(call) do
          {:ok, answer} ->
            check(model, call, answer)
            Model.update(model, operations)

          :raised ->
            at = Enum.find_index(@functions, &(&1 == elem(call, 0)))
            :counters.add(raised, at + 1, 1)
            find_out(model, operations)
        end

      work(process, raised, model, left - 1)
    else
      model
    end
  end

  # Nothing but this error comes of a panic.
  defp attempt(call) do
    {:ok, Call.carry_out(__MODULE__, call)}
  rescue
    error in ErlangError ->
      %ErlangError{original: :nif_panicked} = error
      :raised
  end

  # A call of the store that panicked is one that failed, and who waits for a process that died of it gets an answer too.
  defp check(_model, _call, {:error, reason}) when reason in [:store_unavailable, :timeout],
    do: :ok

  defp check(_model, call, :ok), do: true = elem(call, 0) not in [:get, :list, :total]

  defp check(model, call, {:ok, answer}) do
    expected = Model.answer(model, call)
    if answer != expected, do: raise("#{inspect(call)}: #{inspect({expected, answer})}")
  end

  # What of a call that raised was carried out: of each user the first so many.
  defp find_out(model, operations) do
    operations
    |> Enum.group_by(&elem(&1, 1))
    |> Enum.reduce(model, fn {user, operations}, model ->
      states = read(user)

      operations
      |> Enum.scan(model, &Model.operation(&2, &1))
      |> then(&[model | &1])
      |> Enum.find(&(Map.get(&1.users, user, %{}) == states)) ||
        raise "user #{user} has #{inspect(states)} after #{inspect(operations)}"
    end)
  end

  defp read_all do
    for process <- 1..@processes, user <- users(process), states = read(user), states != %{} do
      {user, states}
    end
    |> Map.new()
  end

  defp read(user) do
    case attempt({:list, user}) do
      {:ok, {:ok, states}} ->
        Map.new(states, &{{&1.kind, &1.channel}, {&1.last_message_id, &1.counters}})

      _again ->
        read(user)
    end
  end

  defp stored do
    instance = Instance.fetch!(__MODULE__)
    {module, store} = Instance.store(instance)
    Model.of_entries(StoreContract.scan(module, store), instance.counters).users
  end

  defp call(process) do
    case :rand.uniform(20) do
      1 -> {:list, user(process)}
      2 -> {:total, user(process), :mention_count}
      n when n in 3..5 -> {:get, user(process), channel()}
      6 -> {:load, users(process)}
      7 -> {:update, for(_ <- 1..:rand.uniform(30), do: operation(process))}
      8 -> {:increment, users(process), channel(), message(), 1}
      9 -> {:load, [user(process)]}
      _ -> operation(process)
    end
  end

  defp operation(process) do
    case :rand.uniform(40) do
      1 -> {:delete, user(process)}
      n when n < 6 -> {:delete, user(process), channel()}
      n when n < 16 -> {:ack, user(process), channel(), message()}
      n when n < 20 -> {:put, user(process), channel(), message(), %{mention_count: n}}
      n when n < 24 -> {:decrement, user(process), channel(), message(), 1}
      _ -> {:increment, user(process), channel(), message(), 1}
    end
  end

  defp users(process), do: Enum.map(1..@users, &(process * 100 + &1))
  defp user(process), do: process * 100 + :rand.uniform(@users)
  defp channel, do: :rand.uniform(@channels)
  defp message, do: :rand.uniform(1_000)
end
