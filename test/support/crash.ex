defmodule ReadStates.Crash do
  @moduledoc """
  A VM under load that is killed with `kill -9`, again and again, on the same files.

  In each life it first checks that what it finds is what it had acknowledged, and then goes on: many processes, each
  with users of its own, carry out operations that follow from the process and a number, and write that number to a
  file when the operation has returned. So the n-th operation is either done or not, and all before it are. All
  processes also count in one read state.
  """

  alias ReadStates.{Call, Instance, Model, OtherVM}
  alias ReadStates.Crash.{Killer, Watch}

  @processes 20
  @users 5
  # Of which everybody's read state is.
  @shared_user 0
  @shared_channel 1
  @newest 0xFFFF_FFFF_FFFF_FFFF
  # From how many to how many operations of a batch that takes room in several pieces of the journal: each is a quarter of
  # a segment, and an operation some 50 bytes.
  @large {6_000, 12_000}

  @options [
    capacity: 60,
    commit_after: 40,
    load_timeout: 60_000,
    # So small that a new segment is begun every few milliseconds.
    journal: [max_size: 16 * 1024 * 1024, sync_every: 10]
  ]

  # What the VM is in the middle of when it is killed, see `ReadStates.Crash.Store` and `ReadStates.Crash.Watch`: it kills itself,
  # and says so if that was over before.
  @phases [
    :commit_begun,
    :committing,
    :commit_written,
    :rotating,
    :recovering,
    :draining,
    :closing
  ]
  # So often it is tried in the middle of something that may be over before the signal is there.
  @tries 20

  @doc """
  Runs `lives` lives in the directory, each ended at a random moment: mostly under load, but also while it starts and
  while it stops, and in the middle of something. Returns the number of operations acknowledged, or raises with what
  was wrong.
  """
  def run(directory, lives, seed) do
    :rand.seed(:exsss, seed)
    run_moments(directory, for(life <- 1..lives//1, do: moment(life)))
  end

  @doc """
  The same, each life ended in the middle of something, until that was so often of each. Raises if it never is.
  """
  def run_aimed(directory, times, seed) do
    :rand.seed(:exsss, seed)
    run_moments(directory, [moment(1)])
    for _ <- 1..times, phase <- @phases, do: aim(directory, phase, @tries)
    run_moments(directory, [])
  end

  defp aim(_directory, phase, 0), do: raise("no kill of #{@tries} was in the middle of #{phase}")

  defp aim(directory, phase, tries) do
    if phase == :recovering, do: live_and_die(directory, {:in, :full})
    if live_and_die(directory, {:in, phase}) != :hit, do: aim(directory, phase, tries - 1)
  end

  defp live_and_die(directory, moment), do: end_life(start_vm(directory, moment), moment)

  defp run_moments(directory, moments) do
    File.mkdir_p!(directory)
    for moment <- moments, do: live_and_die(directory, moment)

    # The last one lives until it has checked.
    vm = start_vm(directory, nil)
    OtherVM.await(vm, "ready")
    OtherVM.kill(vm)
    operations(directory)
  end

  # The first life has to have something to lose.
  defp moment(1), do: {:load, 500}

  defp moment(_life) do
    case :rand.uniform(10) do
      1 -> {:start, :rand.uniform(1_500)}
      2 -> {:stop, :rand.uniform(60)}
      3 -> {:in, Enum.random(@phases)}
      _often -> {:load, :rand.uniform(500)}
    end
  end

  defp end_life(vm, {:start, after_ms}) do
    Process.sleep(after_ms)
    OtherVM.kill(vm)
  end

  defp end_life(vm, {:load, after_ms}) do
    OtherVM.await(vm, "ready")
    Process.sleep(after_ms)
    OtherVM.kill(vm)
  end

  defp end_life(vm, {:stop, after_ms}) do
    OtherVM.await(vm, "ready")
    Process.sleep(:rand.uniform(200))
    OtherVM.tell(vm, "stop")
    Process.sleep(after_ms)
    OtherVM.kill(vm)
  end

  # Not in the middle of it, but with much that is not committed.
  defp end_life(vm, {:in, :full}), do: end_life(vm, {:load, 1_000})

  defp end_life(vm, {:in, phase}) do
    if phase in [:draining, :closing] do
      OtherVM.await(vm, "ready")
      OtherVM.tell(vm, "stop")
    end

    said = OtherVM.await_end(vm)
    if "#{phase} is over" in said, do: :miss, else: :hit
  end

  defp start_vm(directory, {:in, phase}) do
    OtherVM.start("ReadStates.Crash.live(#{inspect(directory)}, #{inspect(phase)})")
  end

  defp start_vm(directory, _moment),
    do: OtherVM.start("ReadStates.Crash.live(#{inspect(directory)}, nil)")

  defp operations(directory) do
    Enum.sum(for process <- 1..@processes, do: acknowledged(directory, process))
  end

  # From here on: in the VM that is killed.

  @doc false
  def live(directory, phase) do
    {:ok, _started} = Application.ensure_all_started(:logger)
    Logger.configure(level: :warning)
    path = Path.join(directory, "store")
    journal = Path.join(path, "journal")
    store = {ReadStates.Crash.Store, path: path, phase: phase}
    options = Keyword.update!(@options, :journal, &[{:path, journal} | &1])

    # Not always the first time.
    Killer.start(if phase in [:recovering, :draining, :closing], do: 1, else: :rand.uniform(4))

    if phase == :recovering,
      do: Watch.start(phase, Instance.keeper(__MODULE__), :recover, &make_ref/0)

    {:ok, instance} = ReadStates.start_link([name: __MODULE__, store: store] ++ options)
    checked = check(directory)

    for {process, {number, _model}} <- checked.processes do
      spawn_link(fn -> work(number_file(directory, process), process, number + 1) end)
    end

    IO.puts("ready")
    # That was too fast to be seen.
    if phase == :recovering, do: stop(phase)
    ReadStates.Crash.Store.begin()

    if phase == :rotating do
      archivist = Instance.archivist(__MODULE__)
      # A segment has come or gone.
      Watch.start(phase, archivist, :tend_journal, fn -> File.ls!(journal) end)
    end

    case IO.gets("") do
      "stop\n" ->
        ReadStates.Crash.Store.stop()
        Process.unlink(instance)
        Supervisor.stop(instance)
        stop(phase)

      _gone ->
        System.halt(0)
    end
  end

  defp stop(phase) do
    Killer.over(phase)
    System.halt(0)
  end

  # What was found is what had been acknowledged, or it raises. The next life starts its check from here.
  defp check(directory) do
    before = checkpoint(directory)

    found =
      for {process, {number, model}} <- before.processes do
        # The last check may have been cut off before it passed its number on.
        done = max(number, acknowledged(directory, process))
        model = advance(model, process, number, done)
        one_more = apply_operation(model, process, done + 1)
        actual = read(process)

        cond do
          # Whether it was done cannot be seen, and the next life does not do it either.
          shared?(process, done + 1) and actual == model.users ->
            {process, number, done + 1, model, 1}

          actual == one_more.users ->
            {process, number, done + 1, one_more, 0}

          actual == model.users ->
            {process, number, done, model, 0}

          true ->
            raise "process #{process} after #{done} operations, of which the next is " <>
                    "#{inspect(operation(process, done + 1), limit: 50)}: " <>
                    "#{inspect(difference(model.users, actual), limit: :infinity)}"
        end
      end

    least =
      before.shared +
        Enum.sum(
          for {process, number, done, _model, perhaps} <- found,
              do: count_shared(process, number + 1, done - perhaps)
        )

    most = least + Enum.sum(for {_, _, _, _, perhaps} <- found, do: perhaps)
    {:ok, shared} = ReadStates.get(__MODULE__, @shared_user, @shared_channel)

    unless shared.counters.mention_count in least..most do
      raise "the shared count is #{shared.counters.mention_count}, and not from #{least} to #{most}"
    end

    processes = for {process, _, done, model, _} <- found, into: %{}, do: {process, {done, model}}

    checked = %{processes: processes, shared: shared.counters.mention_count}
    save(directory, checked)
    checked
  end

  defp difference(expected, actual) do
    for user <- Enum.uniq(Map.keys(expected) ++ Map.keys(actual)),
        states = Map.get(expected, user, %{}),
        found = Map.get(actual, user, %{}),
        channel <- Enum.uniq(Map.keys(states) ++ Map.keys(found)),
        states[channel] != found[channel],
        do: {user, channel, expected: states[channel], found: found[channel]}
  end

  defp read(process) do
    for user <- users(process),
        states = states(user),
        states != %{},
        into: %{},
        do: {user, states}
  end

  defp states(user) do
    {:ok, states} = ReadStates.list(__MODULE__, user)
    Map.new(states, &{{&1.kind, &1.channel}, {&1.last_message_id, &1.counters}})
  end

  defp checkpoint(directory) do
    case File.read(Path.join(directory, "checked")) do
      {:ok, binary} ->
        :erlang.binary_to_term(binary)

      {:error, :enoent} ->
        %{processes: Map.new(1..@processes, &{&1, {0, %Model{}}}), shared: 0}
    end
  end

  # All or nothing, and before the numbers in it are passed on to those who count on.
  defp save(directory, checked) do
    new = Path.join(directory, "checked.new")
    File.write!(new, :erlang.term_to_binary(checked))
    File.rename!(new, Path.join(directory, "checked"))

    for {process, {number, _model}} <- checked.processes do
      File.write!(number_file(directory, process), <<number::64>>)
    end
  end

  defp number_file(directory, process), do: Path.join(directory, "process#{process}")

  defp acknowledged(directory, process) do
    case File.read(number_file(directory, process)) do
      {:ok, <<number::64>>} -> number
      # Killed between the making of the file and the number; the one of the check counts.
      {:ok, ""} -> 0
      {:error, :enoent} -> 0
    end
  end

  defp work(path, process, number) do
    {:ok, file} = :file.open(path, [:read, :write, :raw, :binary])
    work_on(file, process, number)
  end

  defp work_on(file, process, number) do
    case Call.carry_out(__MODULE__, operation(process, number)) do
      :ok ->
        :ok = :file.pwrite(file, 0, <<number::64>>)
        work_on(file, process, number + 1)

      {:error, :overloaded} ->
        Process.sleep(1)
        work_on(file, process, number)

      {:error, :closed} ->
        :ok
    end
  end

  defp advance(model, process, number, done) do
    Enum.reduce((number + 1)..done//1, model, &apply_operation(&2, process, &1))
  end

  defp apply_operation(model, process, number) do
    case operation(process, number) do
      {:increment, @shared_user, _channel, _message, _by} ->
        model

      call ->
        Model.update(model, Call.operations(call))
    end
  end

  # Without making the operation, which may be a large batch.
  defp shared?(process, number), do: elem(what(process, number), 0) in 701..850

  defp count_shared(process, from, to), do: Enum.count(from..to//1, &shared?(process, &1))

  defp users(process), do: Enum.map(1..@users, &(process * 100 + &1))

  # The operation of this number: always the same.
  defp operation(process, number) do
    {what, random} = what(process, number)

    cond do
      what <= 700 -> elem(single(process, number, random), 0)
      what <= 850 -> {:increment, @shared_user, @shared_channel, @newest, 1}
      what <= 900 -> {:increment, users(process), rem(number, 7), number, 1}
      what <= 998 -> {:update, several(process, number, random, {1, 40})}
      what <= 999 -> {:update, several(process, number, random, {1, 2_000})}
      true -> {:update, several(process, number, random, @large)}
    end
  end

  # Which kind it is of, from 1 to 1,000, and what else is drawn for it.
  defp what(process, number),
    do: :rand.uniform_s(1_000, :rand.seed_s(:exsss, {process, number, 7}))

  defp several(process, number, random, {least, most}) do
    {count, random} = :rand.uniform_s(most - least + 1, random)

    {operations, _random} =
      Enum.map_reduce(1..(least + count - 1), random, fn _at, random ->
        single(process, number, random)
      end)

    operations
  end

  defp single(process, number, random) do
    {what, random} = :rand.uniform_s(100, random)
    {user, random} = :rand.uniform_s(@users, random)
    {channel, random} = :rand.uniform_s(12, random)
    {back, random} = :rand.uniform_s(20, random)
    user = process * 100 + user
    channel = if channel > 10, do: {1, channel}, else: channel
    message = max(number - back, 0)

    operation =
      cond do
        what <= 30 -> {:ack, user, channel, message}
        what <= 65 -> {:increment, user, channel, message, back}
        what <= 75 -> {:decrement, user, channel, message, back}
        what <= 88 -> {:put, user, channel, message, %{mention_count: back}}
        what <= 98 -> {:delete, user, channel}
        true -> {:delete, user}
      end

    {operation, random}
  end
end
