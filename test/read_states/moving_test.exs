defmodule ReadStates.MovingTest do
  use ReadStates.InstanceCase, async: true

  alias ReadStates.{CassandraCase, PostgresCase}
  alias ReadStates.Store.{Both, Cassandra, Postgres}

  @moduletag :tmp_dir
  @moduletag timeout: 300_000

  defp second(:local, dir), do: {Local, path: Path.join(dir, "new")}
  defp second(:postgres, _dir), do: {Postgres, PostgresCase.emptied!(__MODULE__)}
  defp second(:cassandra, _dir), do: {Cassandra, CassandraCase.emptied!(__MODULE__)}

  for {where, tag} <- [
        {"another directory", :local},
        {"Postgres", :postgres},
        {"Cassandra", :cassandra}
      ] do
    @tag tag
    test "an instance under load moves to #{where} and loses nothing", %{name: name, tmp_dir: dir} do
      move(name, dir, second(unquote(tag), dir))
    end
  end

  # As guides/moving.md says it, while processes write and read all the time: an instance on one store, then on both,
  # everything copied, then on the other alone. Each process has users of its own and a model of them, so what it reads
  # is known; while the instance is away between two steps it tries again.
  defp move(name, dir, new) do
    old = {Local, path: Path.join(dir, "old")}
    journal = [path: Path.join(dir, "old/journal")]
    opts = [capacity: 2_000, commit_after: 50, journal: journal]
    start = fn store -> start!(name, [store: store] ++ opts) end

    start.(old)
    # Users whom nobody writes to any more: only the copy brings them.
    quiet = for user <- 1_000..1_400, channel <- 1..5, do: {:ack, user, channel, user + channel}
    :ok = ReadStates.update(name, quiet)
    :ok = ReadStates.commit(name)
    writers = for number <- 1..6, do: Task.async(fn -> write(name, number, %Model{}, 0) end)
    Process.sleep(1_000)

    stop!(name)
    start.({Both, from: old, to: new})
    # What has not been copied yet is read all the same.
    assert {:ok, [_, _, _, _, _]} = ReadStates.list(name, 1_200)
    test = self()
    progress = fn done, all -> send(test, {:progress, done, all}) end
    assert {:ok, figures} = Both.copy(name, on_progress: progress)
    assert figures[:rows] >= 2_000
    assert_received {:progress, _done, _all}
    Process.sleep(500)

    stop!(name)
    File.rm_rf!(Path.join(dir, "old"))
    start.(new)
    Process.sleep(500)
    for writer <- writers, do: send(writer.pid, :stop)
    results = Task.await_many(writers, 60_000)
    for {_model, operations} <- results, do: assert(operations > 500)

    expected = Model.update(%Model{}, quiet).users

    expected =
      Enum.reduce(results, expected, fn {model, _}, users -> Map.merge(users, model.users) end)

    :ok = ReadStates.commit(name)
    assert stored(name) == expected
  end

  defp write(name, number, model, operations) do
    receive do
      :stop -> {model, operations}
    after
      0 ->
        user = 10 * number + :rand.uniform(9)

        case attempt(fn -> ReadStates.list(name, user) end) do
          {:ok, list} -> ^list = Model.list(model, user)
          {:error, _away} -> :ok
        end

        batch = for _ <- 1..:rand.uniform(4), do: operation(user)

        case attempt(fn -> ReadStates.update(name, batch) end) do
          :ok -> write(name, number, Model.update(model, batch), operations + length(batch))
          {:error, _away} -> Process.sleep(1) && write(name, number, model, operations)
        end
    end
  end

  # Between two steps there is no such instance.
  defp attempt(fun) do
    fun.()
  rescue
    ArgumentError -> {:error, :away}
  end

  defp operation(user) do
    channel = :rand.uniform(8)

    case :rand.uniform(20) do
      1 -> {:delete, user}
      2 -> {:delete, user, channel}
      n when n < 10 -> {:ack, user, channel, :rand.uniform(1_000_000)}
      _ -> {:increment, user, channel, 2_000_000, 1}
    end
  end
end
