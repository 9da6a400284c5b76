defmodule ReadStates.Store.LocalTest do
  use ExUnit.Case, async: true

  @moduletag :tmp_dir

  import ReadStates.Eventually

  alias ReadStates.OtherVM
  alias ReadStates.Store.Local

  use ReadStates.StoreContract,
    store: Local,
    opts: fn context -> [path: Path.join(context.tmp_dir, "store")] end

  @context %{name: __MODULE__, counters: [:mention_count]}

  defp reason(path, context \\ @context) do
    assert {:error, {reason, text}} = Local.open([path: path], context)
    assert text =~ path
    reason
  end

  describe "a directory" do
    test "has one owner in this VM, until it is closed", %{opts: [path: path], store: store} do
      assert reason(path) == :in_use
      :ok = Local.close(store)
      {:ok, store, 0} = Local.open([path: path], @context)
      :ok = Local.close(store)
    end

    test "has one owner among all VMs", %{tmp_dir: dir} do
      path = Path.join(dir, "other")
      vm = start_vm(path, "IO.puts(\"open\"); Process.sleep(:infinity)")
      OtherVM.await(vm, "open")
      assert reason(path) == :in_use
      OtherVM.kill(vm)
      assert {:ok, store, 0} = Local.open([path: path], @context)
      :ok = Local.close(store)
    end

    test "is made with its parents, below the current directory if it is relative", %{
      tmp_dir: dir
    } do
      path = Path.join([dir, "a", "b", "ü c"])
      {:ok, store, 0} = Local.open([path: Path.relative_to_cwd(path)], @context)
      :ok = Local.close(store)
      assert "read_states.json" in File.ls!(path)
    end

    test "that cannot be written to is an error", %{tmp_dir: dir} do
      File.write!(Path.join(dir, "file"), "")
      assert reason(Path.join(dir, "file/below")) == :not_writable
      assert reason("/proc/read_states") == :not_writable
    end

    test "of somebody else is refused and left as it is", %{tmp_dir: dir} do
      path = Path.join(dir, "photos")
      File.mkdir!(path)
      File.write!(Path.join(path, "cat.jpg"), "miaow")
      assert reason(path) == :not_ours
      assert File.ls!(path) == ["cat.jpg"]
      assert reason(Path.join(path, "cat.jpg")) == :not_ours
    end

    test "of another version of the library is refused", %{opts: [path: path], store: store} do
      :ok = Local.close(store)
      header = Path.join(path, "read_states.json")
      json = File.read!(header)
      File.write!(header, String.replace(json, "\"id_width\":8", "\"id_width\":16"))
      assert reason(path) == :not_ours
      File.write!(header, "{")
      assert {:error, {:damaged_header, _}} = Local.open([path: path], @context)
      File.write!(header, json)
      {:ok, store, 0} = Local.open([path: path], @context)
      :ok = Local.close(store)
      File.write!(Path.join(path, "rows/version"), "x")
      assert reason(path) == :damaged
    end

    test "with a damaged table is refused, or its rows are, by a sentence that names the file", %{
      tmp_dir: dir
    } do
      # Writes that fill some tables: those of 16 MB.
      path = Path.join(dir, "damaged")
      {:ok, store, 0} = Local.open([path: path], @context)

      for user <- 1..12 do
        :ok = commit(store, for(channel <- 1..15_000, do: row(user, channel, user)))
      end

      :ok = Local.close(store)
      tables = Path.wildcard(Path.join(path, "rows/keyspaces/1/tables/*"))
      assert tables != []
      # Some may be left from before a merge, and matter to nobody.
      whole = Map.new(tables, &{&1, File.read!(&1)})

      # In a block of rows, and at the end, which is read first.
      for place <- [fn _size -> 1_000 end, &(&1 - 20)] do
        for {table, bytes} <- whole do
          at = place.(byte_size(bytes))
          <<before::binary-size(at), byte, rest::binary>> = bytes
          File.write!(table, <<before::binary, 255 - byte, rest::binary>>)
        end

        assert [_ | _] = problems = problems(path, 1..12)

        for {reason, text} <- problems do
          assert reason == :damaged
          assert Enum.any?(tables, &(text =~ "#{&1}: damaged: "))
        end

        for {table, bytes} <- whole, do: File.write!(table, bytes)
      end

      {:ok, store, 12} = Local.open([path: path], @context)
      assert length(rows(scan(store))) == 12 * 15_000
      :ok = Local.close(store)
    end

    test "written with other counters is refused", %{opts: [path: path], store: store} do
      :ok = Local.close(store)
      assert reason(path, %{@context | counters: [:unread]}) == :counters_changed
      assert reason(path, %{@context | counters: [:unread, :mention_count]}) == :counters_changed

      {:ok, store, 0} =
        Local.open([path: path], %{@context | counters: [:mention_count, :unread]})

      :ok = Local.close(store)
      assert reason(path) == :counters_changed
    end

    test "is free again when nobody refers to the open store any more", %{tmp_dir: dir} do
      path = Path.join(dir, "forgotten")

      spawn_monitor(fn ->
        {:ok, store, 0} = Local.open([path: path], @context)
        :ok = commit(store, [row(1, 2, 3)])
      end)

      assert_receive {:DOWN, _, _, _, :normal}, 60_000
      store = eventually(fn -> open_if_free(path) end, 60_000)
      assert scan(store) == [row(1, 2, 3)]
      :ok = Local.close(store)
    end
  end

  test "wrong options are named" do
    for opts <- [[], [path: nil], [path: ""], [path: ~c"data"], [path: :data]] do
      assert_raise ArgumentError, ~r/^path must be/, fn -> Local.open(opts, @context) end
    end

    assert_raise ArgumentError, ~r/:paht/, fn -> Local.open([paht: "x"], @context) end
  end

  test "a batch or a cursor that is none of its own is an error", %{store: store} do
    binary = <<Batch.new([row(1, 2, 3)], 1).binary::binary, 0>>
    assert {:error, {:invalid_batch, _}} = Local.commit(store, %Batch{binary: binary})
    assert {:error, {:invalid_batch, _}} = Local.commit(store, Batch.new([], 2))
    assert {:error, {:invalid_cursor, _}} = Local.load(store, [1], "1")
    assert scan(store) == []
  end

  test "what was acknowledged before a kill -9 is there after it", %{tmp_dir: dir} do
    path = Path.join(dir, "killed")

    # Commits 500 rows of user n and then deletes user n - 1, for n = 1, 2, …, each with one line when it returned.
    writer = """
    alias ReadStates.{Batch, Row}

    Enum.each(Stream.iterate(floor + 1, &(&1 + 1)), fn n ->
      rows = for channel <- 1..500 do
        %Row{user: n, kind: 0, channel: channel, version: n, writer: 1, last_message_id: n, counters: [n]}
      end

      :ok = Local.commit(store, Batch.new([{:delete, n - 1, n} | rows], 1))
      IO.puts(n)
    end)
    """

    last =
      for kill_after <- [1, 40, 7, 150], reduce: 0 do
        floor ->
          vm = start_vm(path, writer)
          awaited = to_string(floor + kill_after)
          OtherVM.await(vm, awaited)
          acknowledged = List.last([awaited | OtherVM.kill(vm)]) |> String.to_integer()

          {:ok, store, floor} = Local.open([path: path], @context)
          # More may have returned: what was on its way to us is lost with the VM that said it.
          assert floor >= acknowledged

          expected =
            for channel <- 1..500 do
              row(floor, channel, floor, writer: 1, last_message_id: floor, counters: [floor])
            end

          assert rows(scan(store)) == expected
          :ok = Local.close(store)
          floor
      end

    assert last >= 198
  end

  defp problems(path, users) do
    case Local.open([path: path], @context) do
      {:ok, store, _floor} ->
        problems =
          for user <- users, {:error, problem} <- [Local.load(store, [user], nil)], do: problem

        :ok = Local.close(store)
        problems

      {:error, problem} ->
        [problem]
    end
  end

  defp open_if_free(path) do
    :erlang.garbage_collect()

    case Local.open([path: path], @context) do
      {:ok, store, _floor} -> store
      {:error, {:in_use, _}} -> nil
    end
  end

  # Another VM, in which the store at the path is open as `store`.
  defp start_vm(path, code) do
    OtherVM.start("""
    alias ReadStates.Store.Local
    {:ok, store, floor} = Local.open([path: #{inspect(path)}], %{name: :other, counters: [:mention_count]})
    _ = {store, floor}
    #{code}
    """)
  end
end
