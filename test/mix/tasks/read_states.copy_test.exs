defmodule Mix.Tasks.ReadStates.CopyTest do
  use ExUnit.Case, async: true

  import ExUnit.CaptureIO
  import ReadStates.StoreContract

  alias Mix.Tasks.ReadStates.Copy
  alias ReadStates.Store.Local

  @moduletag :tmp_dir

  setup %{tmp_dir: dir} do
    [from, to] = for name <- ["from", "to"], do: Path.join(dir, name)
    fill(from, [:mention_count], [row(1, 2, 3), row(1, 4, 5), row(7, 1, 8)])
    %{from: from, to: to}
  end

  defp fill(path, counters, entries) do
    {:ok, store, _} = Local.open([path: path], %{name: __MODULE__, counters: counters})
    :ok = commit(Local, store, entries, length(counters))
    :ok = Local.close(store)
  end

  defp refused(args), do: assert_raise(Mix.Error, fn -> Copy.run(args) end).message

  test "prints one name and value a line, and no bar where there is no terminal", %{
    from: from,
    to: to
  } do
    assert ["rows 3", "deletes 0", "users 2", "sha256 " <> digest, "seconds " <> seconds] =
             capture_io(fn -> Copy.run(["--from", "local:#{from}", "--to", "local:#{to}"]) end)
             |> String.split("\n", trim: true)

    assert byte_size(digest) == 64
    assert {_, ""} = Float.parse(seconds)
  end

  test "brings several stores into one with --merge, and then there is no digest of both", %{
    from: from,
    to: to
  } do
    fill(to, [:mention_count], [row(9, 1, 1)])
    args = ["--from", "local:#{from}", "--to", "local:#{to}"]
    assert refused(args) =~ "it has 1 that from has not"

    assert ["rows 3", "deletes 0", "users 2", "seconds " <> _] =
             capture_io(fn -> Copy.run(args ++ ["--merge"]) end)
             |> String.split("\n", trim: true)
  end

  test "takes a store as an instance is given it, and counters", %{tmp_dir: dir, to: to} do
    from = Path.join(dir, "two")
    fill(from, [:a, :b], [row(1, 2, 3, counters: [1, 2])])
    System.put_env("READ_STATES_COPY_TEST", to)
    target = ~S|{ReadStates.Store.Local, path: System.fetch_env!("READ_STATES_COPY_TEST")}|
    args = ["--from", "local:#{from}", "--to", target, "--counters", "a,b"]
    assert capture_io(fn -> Copy.run(args) end) =~ "rows 1\n"
    {:ok, store, 3} = Local.open([path: to], %{name: __MODULE__, counters: [:a, :b]})
    assert scan(Local, store) == [row(1, 2, 3, counters: [1, 2])]
    :ok = Local.close(store)
  end

  test "says what is wrong", %{from: from, to: to} do
    local = "local:#{from}"
    assert refused([]) =~ "--from is missing"
    assert refused(["--from", local]) =~ "--to is missing"
    assert refused(["--from", local, "--to"]) =~ "--to is unknown or has no value"
    assert refused(["--from", local, "--to", "x", "y"]) =~ "more than the options"
    assert refused(["--from", local, "--to", "lokal:x"]) =~ "--to must be local:PATH"
    assert refused(["--from", local, "--to", "local:"]) =~ "--to must be local:PATH"
    assert refused(["--from", local, "--to", "{Nothing, []}"]) =~ "--to: store must be a module"
    assert refused(["--from", "local:#{to}", "--to", local]) == "--from: no directory #{to}"
    assert refused(["--from", local, "--to", local]) =~ "two stores"
    assert refused(["--from", local, "--to", "local:#{to}", "--counters", "x"]) =~ "--from: "
  end

  test "shows nothing of what is Elixir and wrong" do
    for wrong <- [~s|{MyApp.Store, url: "secret|, ~s|{MyApp.Store, url: x("secret")}|] do
      text = refused(["--from", wrong, "--to", "local:x"])
      assert text =~ "--from must be Elixir"
      refute text =~ "secret"
    end
  end
end
