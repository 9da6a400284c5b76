defmodule Mix.Tasks.ReadStates.ReplayTest do
  use ExUnit.Case, async: true

  import ExUnit.CaptureIO

  alias Mix.Tasks.ReadStates.Replay
  alias ReadStates.{CassandraCase, PostgresCase}
  alias ReadStates.Store.{Cassandra, Postgres}

  @moduletag :tmp_dir

  setup %{tmp_dir: tmp_dir} do
    trace = Path.join(tmp_dir, "trace.tsv")
    File.write!(trace, "10\t0\t7\t1\t2,3\n11\t1\t7\t2\t\n")
    %{trace: trace, data: Path.join(tmp_dir, "data")}
  end

  defp refused(args), do: assert_raise(Mix.Error, fn -> Replay.run(args) end).message

  test "prints one name and value a line", %{trace: trace} do
    assert ["messages 2", "connects 2", "acks 3", "mentions 2", "users 3", "channels 1"] ++
             ["states 3", "unread_mentions 1", "sha256 " <> _, "seconds " <> seconds] ++
             ["evictions 0", "loads " <> _] =
             capture_io(fn -> Replay.run([trace, "--store", "memory"]) end)
             |> String.split("\n", trim: true)

    assert {_, ""} = Float.parse(seconds)
  end

  test "leaves no data behind where no --path is given", %{trace: trace} do
    assert capture_io(fn -> Replay.run([trace]) end) =~ "messages 2\n"

    assert Path.wildcard(Path.join(System.tmp_dir!(), "read_states_replay-#{System.pid()}-*")) ==
             []
  end

  test "--verify reads back what a replay left in --path", %{trace: trace, data: data} do
    replayed = capture_io(fn -> Replay.run([trace, "--path", data]) end)
    read_back = capture_io(fn -> Replay.run([trace, "--path", data, "--verify"]) end)

    figures = ~r/^(users|channels|states|unread_mentions|sha256) .*$/m
    assert [_, _, _, _, _] = stored = Regex.scan(figures, replayed)
    assert Regex.scan(figures, read_back) == stored
    assert ["users " <> _ | _] = String.split(read_back, "\n")
  end

  test "refuses a second replay on the same data", %{trace: trace, data: data} do
    capture_io(fn -> Replay.run([trace, "--path", data]) end)

    assert refused([trace, "--path", data]) ==
             "--path: #{data} is not an empty directory; give another one, or --verify to read it back"
  end

  test "refuses bad arguments in one line that names them", %{trace: trace, data: data} do
    assert refused([]) =~ ~r/^expected one TRACE: mix read_states.replay TRACE .*$/
    assert refused([trace, trace]) =~ "expected one TRACE"
    assert refused([trace, "--speed", "3"]) =~ ~r/^unknown option --speed: mix .*$/

    assert refused([trace, "--store"]) ==
             "--store must be memory, local or a store of mix read_states.copy"

    for bad <- ["many", "1.5", ""] do
      assert refused([trace, "--capacity", bad]) == "--capacity must be an integer, got: #{bad}"
    end

    for bad <- ["0", "-1", "#{2 ** 64}"] do
      assert refused([trace, "--capacity", bad]) =~
               ~r/^--capacity must be an integer from 1 to \d+, got: #{bad}$/
    end

    assert refused([trace, "--path"]) == "--path must be a directory"
    assert refused([trace, "--path", ""]) == "--path must be a directory"
    assert refused([trace, "--verify=yes"]) == "--verify takes no value"
    assert refused([trace, "--store", "memory", "--path", data]) == "--path is for --store local"

    assert refused([trace, "--store", "postgres", "--path", data]) ==
             "--path is for --store local"

    assert refused([trace, "--verify"]) == "--verify needs --path, the data to verify"

    assert refused([trace, "--store", "memory", "--verify"]) ==
             "--verify needs --path, the data to verify"

    assert refused([trace, "--verify", "--path", data]) == "--path: no data in #{data}"
    assert refused(["missing.tsv"]) == "TRACE: no such file: missing.tsv"
    assert refused([trace, "--path", trace]) =~ "--path: #{trace} is not an empty directory"
    refute File.exists?(data)
  end

  test "takes a store in the words of mix read_states.copy", %{trace: trace, data: data} do
    replay_and_verify(trace, "local:#{data}")
    File.rm_rf!(data)
    replay_and_verify(trace, "{ReadStates.Store.Local, path: #{inspect(data)}}")
  end

  @tag :postgres
  test "takes one in PostgreSQL", %{trace: trace} do
    replay_and_verify(trace, inspect({Postgres, PostgresCase.emptied!(__MODULE__)}))
  end

  @tag :cassandra
  test "takes one in Cassandra", %{trace: trace} do
    replay_and_verify(
      trace,
      inspect({Cassandra, CassandraCase.emptied!(ReadStates.ReplayTaskTest)})
    )
  end

  defp replay_and_verify(trace, store) do
    replayed = capture_io(fn -> Replay.run([trace, "--store", store]) end)
    assert replayed =~ "messages 2\n"

    assert refused([trace, "--store", store]) ==
             "--store: it is not empty; give another one, or --verify to read it back"

    read_back = capture_io(fn -> Replay.run([trace, "--store", store, "--verify"]) end)
    [digest] = Regex.run(~r/^sha256 .*$/m, replayed)
    assert read_back =~ digest
  end

  test "refuses a store that is none, and does not show it", %{trace: trace} do
    neither = "--store is neither memory nor local, so it must be "

    for {store, text} <- [
          {"disk", neither <> "local:PATH, postgres, "},
          {"mysql://u:secret@h/d", neither <> "local:PATH, postgres, "},
          {"cassandra:secret", neither <> "cassandra:HOST"},
          {~s|{ReadStates.Store.Local, path: "secret|, neither <> "Elixir: "},
          {~s|{Nothing, path: "secret"}|, "--store must be a module that implements "},
          {~s|{ReadStates.Store.Local, paht: "secret"}|, "--store: "}
        ] do
      message = refused([trace, "--store", store])
      assert String.starts_with?(message, text), message
      refute message =~ "secret"
    end
  end

  test "refuses a bad line with its number", %{trace: trace} do
    File.write!(trace, "12\t2\t7\tone\t\n", [:append])

    assert refused([trace, "--store", "memory"]) ==
             "#{trace}, line 3: sender_id is not an integer in 0..2^64-1: \"one\""
  end

  test "refuses a directory that is not the store's", %{trace: trace, data: data} do
    File.mkdir_p!(data)
    File.write!(Path.join(data, "notes.txt"), "not a store")

    assert refused([trace, "--path", data, "--verify"]) =~ ~r/^--path: .*#{data}.*$/
  end
end
