defmodule ReadStates.TelemetryTest do
  # Others are to run without telemetry.
  use ReadStates.InstanceCase, async: false

  alias ReadStates.TelemetryStandIn

  @compile {:no_warn_undefined, :telemetry}
  @events for event <- [:load, :commit, :evict, :overload], do: [:read_states, event]

  setup %{name: name} do
    if TelemetryStandIn.install(), do: on_exit(&TelemetryStandIn.remove/0)
    :telemetry.attach_many(name, @events, &__MODULE__.handle/4, self())
    on_exit(fn -> :telemetry.detach(name) end)
    faults = start_faults!()
    start!(name, store: faulty(faults), capacity: 100, memory: 8_000_000, dirty_memory: 2_000_000)
    %{faults: faults}
  end

  def handle([:read_states, event], measurements, metadata, test) do
    send(test, {event, measurements, metadata})
  end

  defp await(event) do
    assert_receive {^event, measurements, metadata}, 60_000
    {measurements, metadata}
  end

  test "load and commit, with what they brought and how long the store took", %{name: name} do
    :ok = ReadStates.update(name, for(channel <- 1..10, do: {:ack, 1, channel, 100}))
    :ok = ReadStates.delete(name, 2)
    :ok = ReadStates.commit(name)

    assert {%{duration: duration, users: 1, entries: 0}, %{name: ^name, result: :ok}} =
             await(:load)

    assert is_integer(duration) and duration >= 0

    commits = for _ <- 1..ReadStates.stats(name).commits, do: await(:commit)
    assert for({_, metadata} <- commits, uniq: true, do: metadata) == [%{name: name, result: :ok}]
    assert Enum.sum(for {%{users: users}, _} <- commits, do: users) == 2
    assert Enum.sum(for {%{entries: entries}, _} <- commits, do: entries) == 11
    assert Enum.all?(commits, fn {%{duration: duration}, _} -> duration >= 0 end)

    commit_and_evict!(name)
    {:ok, _} = ReadStates.list(name, 1)
    {:ok, _} = ReadStates.list(name, 2)
    assert {%{users: 1, entries: 10}, %{result: :ok}} = await(:load)
  end

  test "load and commit that failed, with the store's reason", %{name: name, faults: faults} do
    FaultyStore.set(faults, :load, {:return, {:error, :away}})
    FaultyStore.set(faults, :commit, {:return, {:error, {:full, "disk"}}})
    assert ReadStates.get(name, 1, 10) == {:error, :store_unavailable}

    assert {%{duration: _, users: 1, entries: 0}, %{name: ^name, result: {:error, :away}}} =
             await(:load)

    :ok = ReadStates.delete(name, 2)
    assert ReadStates.commit(name) == {:error, :store_unavailable}

    assert {%{duration: _, users: 1, entries: 1},
            %{name: ^name, result: {:error, {:full, "disk"}}}} = await(:commit)

    FaultyStore.set(faults, :load, nil)
    FaultyStore.set(faults, :commit, nil)
  end

  test "evict, about once a second", %{name: name} do
    for user <- 1..1_000, do: {:ok, []} = ReadStates.list(name, user)
    %{users: users, evictions: evictions} = ReadStates.stats(name)
    assert {users, evictions} == {100, 900}
    events = sum(:evict, :users, 900)
    assert Enum.all?(events, fn {_, metadata} -> metadata == %{name: name} end)
    assert Enum.all?(events, fn {measurements, _} -> measurements.states == 0 end)
  end

  test "overload, about once a second", %{name: name, faults: faults} do
    FaultyStore.set(faults, :load, :hang)
    FaultyStore.set(faults, :commit, :hang)
    :ok = ReadStates.update(name, for(user <- 1..1_000, do: {:ack, user, 10, 1}))

    for user <- 1..10 do
      batch = for n <- 1..20_000, do: {:ack, user * 100_000 + n, 10, 1}
      assert ReadStates.update(name, batch) == {:error, :overloaded}
    end

    [{%{dirty_memory: dirty_memory}, metadata} | _] = sum(:overload, :refused, 10)
    assert metadata == %{name: name}
    assert dirty_memory in 1..2_000_000
    FaultyStore.set(faults, :load, nil)
    FaultyStore.set(faults, :commit, nil)
  end

  # The events of this kind, until one of their measurements sums up to this.
  defp sum(event, measurement, sum) do
    {measurements, metadata} = await(event)

    case sum - Map.fetch!(measurements, measurement) do
      0 -> [{measurements, metadata}]
      rest when rest > 0 -> [{measurements, metadata} | sum(event, measurement, rest)]
    end
  end

  test "no event for an operation", %{name: name} do
    :ok = ReadStates.load(name, [1])
    assert {%{users: 1}, _} = await(:load)

    for message <- 1..100 do
      :ok = ReadStates.ack(name, 1, 10, message)
      {:ok, _} = ReadStates.get(name, 1, 10)
    end

    # A tick later.
    Process.sleep(1_100)
    refute_received _
  end
end
