defmodule ReadStates.HistoriesTest do
  use ReadStates.InstanceCase, async: true

  # Random operations, with loads, commits and evictions in between and while the store hangs, against the plain model:
  # every read returns the same.

  alias :proper_types, as: Type
  alias ReadStates.{Call, Instance, StoreContract}

  @compile {:no_warn_undefined, [:proper, :proper_types]}

  @moduletag :proper
  @moduletag timeout: 300_000

  @histories 1_000
  # Between users that come and go; some histories touch more read states than this.
  @capacity 10
  @names [:mention_count, :replies, :reactions, :calls]

  # The ids around which integers become bignums, in the middle of the range of unsigned 64-bit integers, and its end.
  @ids [0, 1, 2, 0x07FF_FFFF_FFFF_FFFF, 0x0800_0000_0000_0000, 0x8000_0000_0000_0000, @max]
  @channels @ids ++ [{0, 1}, {0, @max}, {1, 1}, {7, 0x0800_0000_0000_0000}, {255, @max}]

  test "every read is as the model's, and so is the store in the end", %{name: name} do
    instances =
      for counters <- 1..4, commit_after <- [0, 30_000], into: %{} do
        instance = Module.concat(name, "#{counters} #{commit_after}")
        faults = start_faults!()

        start!(instance,
          store: faulty(faults),
          capacity: @capacity,
          counters: Enum.take(@names, counters),
          commit_after: commit_after
        )

        {{counters, commit_after}, {instance, faults}}
      end

    property = :proper.forall(history(), fn history -> run?(history, instances) end)
    options = [:quiet, :long_result, numtests: @histories, max_size: 200]

    case :proper.quickcheck(property, options) do
      true ->
        # Everything did happen: users came, were committed, left and came again.
        for {_, {instance, _}} <- instances do
          stats = ReadStates.stats(instance)
          assert stats.loads > 100 and stats.evictions > 100 and stats.commits > 100
        end

      [history] ->
        IO.puts(:stderr, "the smallest history that fails: #{inspect(history, limit: :infinity)}")
        # Raises as it did in the property, unless that was by chance.
        for _ <- 1..100, do: run(history, instances)
        flunk("failed once, and not again")

      other ->
        flunk(inspect(other))
    end
  end

  # A history: which instance, and the steps. Users and counters are numbers, of which `run/2` makes ids and names.
  defp history do
    instances = for counters <- 1..4, commit_after <- [0, 30_000], do: {counters, commit_after}
    {Type.elements(instances), Type.list(step())}
  end

  defp step do
    Type.frequency([
      {20, operation()},
      {2, {:update, Type.list(operation())}},
      {2,
       {:many, Type.elements([:increment, :decrement]), Type.list(user()), channel(), id(), by(),
        counter()}},
      {4, {:get, user(), channel()}},
      {2, {:list, user(), query()}},
      {2, {:total, user(), counter()}},
      {1, {:load, Type.list(user())}},
      {1, :commit},
      {2, :evict},
      {1, {:hang, Type.elements([:load, :commit])}},
      {1, :go_on}
    ])
  end

  defp operation do
    Type.frequency([
      {4, {:ack, user(), channel(), id()}},
      {4, {:increment, user(), channel(), id(), by(), counter()}},
      {1, {:increment, user(), channel(), id(), by()}},
      {2, {:decrement, user(), channel(), id(), by(), counter()}},
      {1, {:decrement, user(), channel(), id(), by()}},
      {2, {:put, user(), channel(), id(), Type.list({counter(), by()})}},
      {2, {:delete, user(), channel()}},
      {1, {:delete, user()}}
    ])
  end

  defp user, do: Type.integer(0, 4)
  defp channel, do: Type.elements(@channels)
  defp id, do: Type.oneof([Type.integer(0, 9), Type.elements(@ids)])

  defp by do
    Type.frequency([{2, Type.integer(0, 3)}, {1, Type.elements([0xFFFF_FFFE, 0xFFFF_FFFF])}])
  end

  defp counter, do: Type.integer(0, 3)

  defp query do
    options = [{:after, channel()}, {:limit, Type.integer(0, 5)}, {:nonzero, counter()}]
    Type.list(Type.oneof(options))
  end

  # PropEr cannot deal with exceptions on every OTP.
  defp run?(history, instances) do
    run(history, instances)
    true
  rescue
    _exception -> false
  end

  defp run({key, steps}, instances) do
    {name, faults} = Map.fetch!(instances, key)
    names = Enum.take(@names, elem(key, 0))
    # Nobody has had these users before.
    base = System.unique_integer([:positive])

    users =
      {base, 0x07FF_FFFF_FFFF_FFFF - base, 0x0800_0000_0000_0000 + base,
       0x8000_0000_0000_0000 + base, @max - base}

    history = %{name: name, faults: faults, users: users, names: names}
    model = Enum.reduce(steps, %Model{names: names}, &step(&1, &2, history))
    go_on(history)
    check(history, model)
    :ok = ReadStates.commit(name)
    assert stored_of(history) == model.users
    evict(name)
    check(history, model)
  end

  defp check(%{name: name, users: users, names: names}, model) do
    for user <- Tuple.to_list(users) do
      assert ReadStates.list(name, user) == {:ok, Model.list(model, user)}

      for counter <- names do
        assert ReadStates.total(name, user, counter) == {:ok, Model.total(model, user, counter)}
      end

      for channel <- @channels do
        assert ReadStates.get(name, user, channel) == {:ok, Model.get(model, user, channel)}
      end
    end
  end

  defp stored_of(%{name: name, users: users, names: names}) do
    {module, store} = Instance.store(Instance.fetch!(name))
    Model.of_entries(StoreContract.load(module, store, Tuple.to_list(users)), names).users
  end

  defp step({:update, operations}, model, history) do
    operations = Enum.map(operations, &concrete(&1, history))
    :ok = ReadStates.update(history.name, operations)
    Model.update(model, operations)
  end

  defp step({:many, tag, users, channel, message, by, counter}, model, history) do
    %{name: name} = history
    users = Enum.map(users, &user(&1, history))
    counter = counter(counter, history)
    :ok = apply(ReadStates, tag, [name, users, channel, message, [by: by, counter: counter]])
    Model.update(model, for(user <- users, do: {tag, user, channel, message, by, counter}))
  end

  defp step({:get, user, channel}, model, %{name: name} = history) do
    go_on(history)
    user = user(user, history)
    assert ReadStates.get(name, user, channel) == {:ok, Model.get(model, user, channel)}
    model
  end

  defp step({:list, user, query}, model, %{name: name} = history) do
    go_on(history)
    user = user(user, history)

    query =
      for {option, value} <- Map.new(query) do
        {option, if(option == :nonzero, do: counter(value, history), else: value)}
      end

    assert ReadStates.list(name, user, query) == {:ok, Model.list(model, user, query)}
    model
  end

  defp step({:total, user, counter}, model, %{name: name} = history) do
    go_on(history)
    {user, counter} = {user(user, history), counter(counter, history)}
    assert ReadStates.total(name, user, counter) == {:ok, Model.total(model, user, counter)}
    model
  end

  defp step({:load, users}, model, history) do
    go_on(history)
    :ok = ReadStates.load(history.name, Enum.map(users, &user(&1, history)))
    model
  end

  defp step(:commit, model, history) do
    go_on(history)
    :ok = ReadStates.commit(history.name)
    assert stored_of(history) == model.users
    model
  end

  defp step(:evict, model, %{name: name}) do
    evict(name)
    model
  end

  defp step({:hang, call}, model, %{faults: faults}) do
    FaultyStore.set(faults, call, :hang)
    model
  end

  defp step(:go_on, model, history) do
    go_on(history)
    model
  end

  defp step(operation, model, %{name: name} = history) do
    operation = concrete(operation, history)
    :ok = Call.carry_out(name, operation)
    Model.operation(model, operation)
  end

  defp go_on(%{faults: faults}) do
    FaultyStore.set(faults, :load, nil)
    FaultyStore.set(faults, :commit, nil)
  end

  defp concrete(operation, history) do
    operation = put_elem(operation, 1, user(elem(operation, 1), history))

    case operation do
      {tag, user, channel, message, by, counter} ->
        {tag, user, channel, message, by, counter(counter, history)}

      {:put, user, channel, message, counters} ->
        counters =
          Map.new(counters, fn {counter, count} -> {counter(counter, history), count} end)

        {:put, user, channel, message, counters}

      operation ->
        operation
    end
  end

  defp user(number, %{users: users}), do: elem(users, number)
  defp counter(number, %{names: names}), do: Enum.at(names, rem(number, length(names)))
end
