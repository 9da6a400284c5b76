defmodule ReadStates.TraceTest do
  use ExUnit.Case, async: true

  alias ReadStates.Trace

  @moduletag :tmp_dir
  @largest 0xFFFF_FFFF_FFFF_FFFF

  defp write(tmp_dir, bytes) do
    path = Path.join(tmp_dir, "trace")
    File.write!(path, bytes)
    path
  end

  defp read(tmp_dir, bytes), do: tmp_dir |> write(bytes) |> Trace.stream!() |> Enum.to_list()

  defp problem(tmp_dir, bytes) do
    path = write(tmp_dir, bytes)
    error = assert_raise Trace.Error, fn -> Stream.run(Trace.stream!(path)) end
    String.replace_prefix(error.message, path, "")
  end

  test "reads plain lines", %{tmp_dir: tmp_dir} do
    assert read(
             tmp_dir,
             "10\t1519660926\t7\t1\t\n11\t1519660927\t7\t2\t1,3\n12\t1519660928\t8\t1\t*\n"
           ) ==
             [
               {10, 1_519_660_926, 7, 1, []},
               {11, 1_519_660_927, 7, 2, [1, 3]},
               {12, 1_519_660_928, 8, 1, :everybody}
             ]
  end

  test "takes ids of the whole range, and a last line without a line break", %{tmp_dir: tmp_dir} do
    assert read(tmp_dir, "#{@largest}\t0\t#{@largest}\t0\t#{@largest}") ==
             [{@largest, 0, @largest, 0, [@largest]}]
  end

  test "an empty file has no lines", %{tmp_dir: tmp_dir} do
    assert read(tmp_dir, "") == []
    assert read(tmp_dir, :zlib.gzip("")) == []
  end

  test "knows gzip by its first bytes, of several members too", %{tmp_dir: tmp_dir} do
    assert read(tmp_dir, :zlib.gzip("1\t2\t3\t4\t\n")) == [{1, 2, 3, 4, []}]

    members = :zlib.gzip("1\t2\t3\t4\t\n5\t6\t") <> :zlib.gzip("7\t8\t*\n")
    assert read(tmp_dir, members) == [{1, 2, 3, 4, []}, {5, 6, 7, 8, :everybody}]
  end

  test "lines that lie across the pieces in which the file is read", %{tmp_dir: tmp_dir} do
    lines = for n <- 1..20_000, do: {n * 1_000_003, n, rem(n, 97), rem(n, 13), []}

    text =
      for {message, seconds, channel, sender, []} <- lines, into: "" do
        "#{message}\t#{seconds}\t#{channel}\t#{sender}\t\n"
      end

    assert read(tmp_dir, text) == lines
    assert read(tmp_dir, :zlib.gzip(text)) == lines
  end

  test "tells how much of the file was read", %{tmp_dir: tmp_dir} do
    text = String.duplicate("1\t2\t3\t4\t\n", 5_000)
    path = write(tmp_dir, text)
    size = byte_size(text)
    test = self()

    Stream.run(Trace.stream!(path, on_read: fn read, size -> send(test, {:read, read, size}) end))

    assert_received {:read, first, ^size} when first < size
    assert_received {:read, ^size, ^size}
  end

  test "closes the file when the reader stops early", %{tmp_dir: tmp_dir} do
    path = write(tmp_dir, :zlib.gzip(String.duplicate("1\t2\t3\t4\t\n", 50_000)))
    assert Enum.take(Trace.stream!(path), 2) == [{1, 2, 3, 4, []}, {1, 2, 3, 4, []}]
  end

  describe "refuses, with the number of the line," do
    test "a wrong number of fields", %{tmp_dir: tmp_dir} do
      assert problem(tmp_dir, "1\t2\t3\t4\t\n1\t2\t3\t4\n") =~
               ", line 2: expected message_id, unix_seconds, channel_id, sender_id, mentioned, got 4 of 5 fields"

      assert problem(tmp_dir, "1\t2\t3\t4\t\t\n") =~
               ", line 1: expected message_id, unix_seconds, channel_id, sender_id, mentioned, got 6 of 5 fields"

      assert problem(tmp_dir, "1\t2\t3\t4\t\n\n") =~
               ", line 2: expected message_id, unix_seconds, channel_id, sender_id, mentioned, got 1 of 5 fields"
    end

    test "what is no unsigned 64-bit integer, naming the field", %{tmp_dir: tmp_dir} do
      for bad <- [
            "",
            "-1",
            "+1",
            "1.0",
            "1e3",
            " 1",
            "0x1",
            "a",
            "#{@largest + 1}",
            String.duplicate("1", 5_000)
          ],
          {field, index} <- Enum.with_index(~w(message_id unix_seconds channel_id sender_id)) do
        line = ["1", "2", "3", "4", ""] |> List.replace_at(index, bad) |> Enum.join("\t")

        assert problem(tmp_dir, "1\t2\t3\t4\t\n#{line}\n") =~
                 ", line 2: #{field} is not an integer in 0..2^64-1: "
      end
    end

    test "a malformed list of mentioned users", %{tmp_dir: tmp_dir} do
      for bad <- [
            ",",
            "1,",
            ",1",
            "1,,2",
            "1;2",
            "1, 2",
            "**",
            "*,1",
            "1,*",
            "1\r",
            "#{@largest + 1}"
          ] do
        assert problem(tmp_dir, "1\t2\t3\t4\t#{bad}\n") =~
                 ", line 1: mentioned is not an integer in 0..2^64-1: "
      end

      assert problem(tmp_dir, "1\t2\t3\t4\t5,6,5\n") ==
               ", line 1: mentioned names the user 5 twice"
    end

    test "the bad line only after those before it", %{tmp_dir: tmp_dir} do
      path = write(tmp_dir, String.duplicate("1\t2\t3\t4\t\n", 9_999) <> "no line")
      assert path |> Trace.stream!() |> Enum.take(9_000) |> length() == 9_000
      assert_raise Trace.Error, ~r/line 10000: /, fn -> Stream.run(Trace.stream!(path)) end
    end

    test "a line without an end", %{tmp_dir: tmp_dir} do
      assert problem(tmp_dir, "1\t2\t3\t4\t\n" <> String.duplicate("1", 2_000_000)) ==
               ", line 2: longer than 1048576 bytes"
    end
  end

  test "says that gzip data is damaged or cut off, and where", %{tmp_dir: tmp_dir} do
    # Numbers that hardly compress, so that the data is longer than one piece.
    text = for n <- 1..20_000, into: "", do: "#{:erlang.phash2(n, 1_000_000_000)}\t2\t3\t4\t\n"
    gzip = :zlib.gzip(text)

    for cut <- [5, 1_000, div(byte_size(gzip), 2), byte_size(gzip) - 1] do
      assert problem(tmp_dir, binary_part(gzip, 0, cut)) =~
               ~r/: gzip data damaged or cut off after line \d+$/
    end

    middle = div(byte_size(gzip), 2)
    <<head::binary-size(middle), byte, tail::binary>> = gzip

    for damaged <- [<<head::binary, 255 - byte, tail::binary>>, gzip <> "more", <<0x1F, 0x8B>>] do
      assert problem(tmp_dir, damaged) =~
               ~r/: gzip data damaged or cut off after line \d+$|line \d+: /
    end
  end

  test "whatever is damaged, it is read or refused", %{tmp_dir: tmp_dir} do
    # For as long as you like: script/fuzz trace.
    counts = ReadStates.TraceFuzz.run(Path.join(tmp_dir, "trace"), 1..400)
    assert counts.whole > 10 and counts.refused > 200
  end

  test "each file of the fuzzer's corpus is read or refused", %{tmp_dir: tmp_dir} do
    %{whole: whole, refused: refused} = ReadStates.TraceFuzz.replay(Path.join(tmp_dir, "trace"))

    assert whole ==
             ~w(empty.tsv empty.tsv.gz gzip_twice.tsv.gz largest.tsv leading_zeros.tsv no_newline_at_the_end.tsv) ++
               ~w(plain.tsv plain.tsv.gz)

    assert length(refused) == 24
  end

  test "says why the file cannot be read", %{tmp_dir: tmp_dir} do
    missing = Path.join(tmp_dir, "missing")

    assert_raise Trace.Error, "#{missing}: no such file or directory", fn ->
      Stream.run(Trace.stream!(missing))
    end

    assert_raise Trace.Error, "#{tmp_dir}: illegal operation on a directory", fn ->
      Stream.run(Trace.stream!(tmp_dir))
    end
  end
end
