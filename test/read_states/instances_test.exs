defmodule ReadStates.InstancesTest do
  use ReadStates.InstanceCase, async: true

  @moduletag :tmp_dir

  test "side by side do not mix", %{name: name, tmp_dir: tmp_dir} do
    stores = [Memory, Memory | for(n <- 1..2, do: {Local, path: Path.join(tmp_dir, "#{n}")})]
    instances = for n <- 1..4, do: Module.concat(name, "#{n}")

    starts =
      for {instance, store} <- Enum.zip(instances, stores) do
        {ReadStates, options(instance, store: store, counters: [instance, :mention_count])}
      end

    # Under one supervisor, of an application's.
    start_supervised!(%{
      id: :application,
      type: :supervisor,
      start: {Supervisor, :start_link, [starts, [strategy: :one_for_one]]}
    })

    for {instance, n} <- Enum.with_index(instances) do
      :ok = ReadStates.put(instance, 1, 10, n, [{instance, n + 1}])
      :ok = ReadStates.increment(instance, 1, {n, 11}, 100, counter: instance)
    end

    :ok = instances |> hd() |> ReadStates.delete(1)
    Enum.each(instances, &(:ok = ReadStates.commit(&1)))

    assert stored(hd(instances)) == %{}

    for {instance, n} <- Enum.drop(Enum.with_index(instances), 1) do
      expected = %{
        1 => %{
          {0, 10} => {n, %{instance => n + 1, mention_count: 0}},
          {n, 11} => {0, %{instance => 1, mention_count: 0}}
        }
      }

      assert read(instance, [1]) == expected
      assert stored(instance) == expected
      assert_raise ArgumentError, fn -> ReadStates.total(instance, 1, hd(instances)) end
    end
  end

  test "of the same name cannot run twice", %{name: name} do
    pid = start!(name)
    assert ReadStates.start_link(options(name, [])) == {:error, {:already_started, pid}}

    assert ReadStates.start_link(options(name, counters: [:a])) ==
             {:error, {:already_started, pid}}

    :ok = ReadStates.ack(name, 1, 10, 100)
    assert {:ok, %{counters: %{mention_count: 0}}} = ReadStates.get(name, 1, 10)
  end

  test "on the same path cannot run at the same time", %{name: name, tmp_dir: tmp_dir} do
    path = Path.join(tmp_dir, "store")
    opts = [store: {Local, path: path}]
    start!(name, opts)
    :ok = ReadStates.ack(name, 1, 10, 100)
    other = Module.concat(name, "other")
    Process.flag(:trap_exit, true)
    assert {:error, {:in_use, text}} = ReadStates.start_link(options(other, opts))
    assert text =~ path
    assert_raise ArgumentError, fn -> ReadStates.stats(other) end

    assert {:ok, %{last_message_id: 100}} = ReadStates.get(name, 1, 10)
    stop!(name)
    start!(other, opts)
    assert {:ok, %{last_message_id: 100}} = ReadStates.get(other, 1, 10)
  end

  test "are named ReadStates if nothing else is said" do
    assert ReadStates.child_spec(store: Memory).id == {ReadStates, ReadStates}
    start_supervised!({ReadStates, store: Memory})
    assert ReadStates.ack(ReadStates, 1, 10, 100) == :ok
    assert {:ok, %{last_message_id: 100}} = ReadStates.get(ReadStates, 1, 10)
  end
end
