defmodule ReadStates.Trace do
  @moduledoc false
  # A message history as numbers, plain or gzip. One message a line, oldest first, tab-separated:
  #
  #     message_id  unix_seconds  channel_id  sender_id  mentioned
  #
  # `mentioned` is empty, user ids joined by commas, or `*` for everybody.

  defmodule Error do
    @moduledoc false
    defexception [:message]
  end

  @type id :: 0..0xFFFF_FFFF_FFFF_FFFF
  @type line ::
          {message :: id, unix_seconds :: id, channel :: id, sender :: id,
           mentioned :: [id] | :everybody}

  @read_bytes 16_384
  # Bounds what a file without line breaks can take; room for 50,000 mentions.
  @longest_line 1_048_576
  @fields ~w(message_id unix_seconds channel_id sender_id mentioned)

  @doc """
  Streams the lines of the trace at `path`.

  `:on_read` is called with the bytes of the file read so far and its size each time a piece was read.
  Raises `ReadStates.Trace.Error` while it is consumed when the file cannot be read, when its gzip
  data is damaged or cut off, and on a bad line, whose number the message gives.
  """
  @spec stream!(Path.t(), on_read: (non_neg_integer, non_neg_integer -> any)) ::
          Enumerable.t()
  def stream!(path, opts \\ []) do
    on_read = Keyword.get(opts, :on_read, fn _read, _size -> :ok end)
    Stream.resource(fn -> open(path, on_read) end, &next/1, &close/1)
  end

  defp open(path, on_read) do
    with {:ok, %File.Stat{size: size}} <- File.stat(path),
         {:ok, file} <- :file.open(path, [:read, :raw, :binary]) do
      %{
        path: path,
        file: file,
        size: size,
        read: 0,
        on_read: on_read,
        inflate: :undecided,
        rest: "",
        number: 0
      }
    else
      {:error, reason} -> file_error(path, reason)
    end
  end

  defp next(%{file: file, read: read} = trace) do
    case :file.read(file, @read_bytes) do
      {:ok, bytes} ->
        trace = %{decide(trace, bytes) | read: read + byte_size(bytes)}
        trace.on_read.(trace.read, trace.size)
        lines(trace, inflate(trace, bytes))

      :eof when trace.rest == "" ->
        finish(trace)
        {:halt, trace}

      :eof ->
        finish(trace)
        {[parse(trace.rest, trace.number + 1, trace)], %{trace | rest: ""}}

      {:error, reason} ->
        file_error(trace.path, reason)
    end
  end

  defp close(%{file: file, inflate: inflate}) do
    if is_reference(inflate), do: :zlib.close(inflate)
    :file.close(file)
  end

  # gzip is known by its magic bytes, not by the name of the file.
  defp decide(%{inflate: :undecided} = trace, <<0x1F, 0x8B, _::binary>>) do
    zlib = :zlib.open()
    # 16 + 15: a gzip header, the largest window; members that follow one another are one text.
    :ok = :zlib.inflateInit(zlib, 31, :reset)
    %{trace | inflate: zlib}
  end

  defp decide(%{inflate: :undecided} = trace, _bytes), do: %{trace | inflate: nil}
  defp decide(trace, _bytes), do: trace

  defp inflate(%{inflate: nil}, bytes), do: bytes

  defp inflate(%{inflate: zlib} = trace, bytes) do
    IO.iodata_to_binary(:zlib.inflate(zlib, bytes))
  rescue
    ErlangError -> damaged(trace)
  end

  defp finish(%{inflate: zlib} = trace) when is_reference(zlib) do
    :zlib.inflateEnd(zlib)
  rescue
    ErlangError -> damaged(trace)
  end

  defp finish(_trace), do: :ok

  defp lines(trace, bytes) do
    {whole, [rest]} = :binary.split(trace.rest <> bytes, "\n", [:global]) |> Enum.split(-1)

    if byte_size(rest) > @longest_line do
      line_error(trace, trace.number + length(whole) + 1, "longer than #{@longest_line} bytes")
    end

    {lines, number} = Enum.map_reduce(whole, trace.number, &{parse(&1, &2 + 1, trace), &2 + 1})

    {lines, %{trace | rest: rest, number: number}}
  end

  defp parse(line, number, trace) do
    case :binary.split(line, "\t", [:global]) do
      [message, seconds, channel, sender, mentioned] ->
        {id(message, "message_id"), id(seconds, "unix_seconds"), id(channel, "channel_id"),
         id(sender, "sender_id"), mentioned(mentioned)}

      fields ->
        throw("expected #{Enum.join(@fields, ", ")}, got #{length(fields)} of 5 fields")
    end
  catch
    problem -> line_error(trace, number, problem)
  end

  defp mentioned(""), do: []
  defp mentioned("*"), do: :everybody

  defp mentioned(field) do
    users = for user <- :binary.split(field, ",", [:global]), do: id(user, "mentioned")

    case users -- Enum.uniq(users) do
      [] -> users
      [user | _] -> throw("mentioned names the user #{user} twice")
    end
  end

  # Twenty digits hold every 64-bit integer; more are not even converted.
  defp id(field, name) when byte_size(field) in 1..20 do
    case decimal(field, 0) do
      id when is_integer(id) and id <= 0xFFFF_FFFF_FFFF_FFFF -> id
      _too_large_or_not_decimal -> not_an_id(field, name)
    end
  end

  defp id(field, name), do: not_an_id(field, name)

  defp decimal(<<digit, rest::binary>>, n) when digit in ?0..?9,
    do: decimal(rest, n * 10 + digit - ?0)

  defp decimal("", n), do: n
  defp decimal(_other, _n), do: :not_decimal

  defp not_an_id(field, name) do
    shown = inspect(field, limit: 20, printable_limit: 40)
    throw("#{name} is not an integer in 0..2^64-1: #{shown}")
  end

  @spec line_error(map, pos_integer, String.t()) :: no_return
  defp line_error(trace, number, problem),
    do: raise(Error, "#{trace.path}, line #{number}: #{problem}")

  @spec damaged(map) :: no_return
  defp damaged(trace),
    do: raise(Error, "#{trace.path}: gzip data damaged or cut off after line #{trace.number}")

  @spec file_error(Path.t(), File.posix()) :: no_return
  defp file_error(path, reason), do: raise(Error, "#{path}: #{:file.format_error(reason)}")
end
