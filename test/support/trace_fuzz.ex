defmodule ReadStates.TraceFuzz do
  @moduledoc """
  Damages traces at random, plain and gzip, made up or of the corpus in `native/fuzz/corpus/trace`, and checks that each is
  read to its end or to a `ReadStates.Trace.Error`, and that what was read until then is a trace.
  """

  alias ReadStates.Trace

  @corpus Path.expand("../../native/fuzz/corpus/trace", __DIR__)
  @largest 0xFFFF_FFFF_FFFF_FFFF
  @tokens [
    "\t",
    "\n",
    "\r\n",
    ",",
    "*",
    "0",
    "-1",
    "18446744073709551615",
    "18446744073709551616",
    "\0",
    "\xFF",
    "ü",
    <<0x1F, 0x8B>>,
    <<0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 3>>
  ]

  @doc """
  Reads the traces of `seeds`, each damaged in its own way, from a file at `path`. Returns how many were
  read whole and how many were refused. Raises at the first that is read as neither, and names its seed.
  """
  @spec run(Path.t(), Enumerable.t()) :: %{whole: non_neg_integer, refused: non_neg_integer}
  def run(path, seeds) do
    corpus = for name <- Enum.sort(File.ls!(@corpus)), do: File.read!(Path.join(@corpus, name))

    Enum.reduce(seeds, %{whole: 0, refused: 0}, fn seed, counts ->
      Map.update!(counts, check_seed(path, corpus, seed), &(&1 + 1))
    end)
  end

  @doc """
  Reads each file of the corpus as it is, with `path` for what is written anew. Returns the names of those that were
  read whole, and of those that were refused. Raises as `run/2`.
  """
  @spec replay(Path.t()) :: %{whole: [String.t()], refused: [String.t()]}
  def replay(path) do
    endings =
      for name <- Enum.sort(File.ls!(@corpus)) do
        {named(name, fn -> check(path, File.read!(Path.join(@corpus, name))) end), name}
      end

    %{
      whole: for({:whole, name} <- endings, do: name),
      refused: for({:refused, name} <- endings, do: name)
    }
  end

  defp check_seed(path, corpus, seed) do
    :rand.seed(:exsss, seed)
    named("seed #{seed}", fn -> check(path, damaged(corpus)) end)
  end

  defp check(path, bytes) do
    File.write!(path, bytes)
    {lines, ending} = read(path)

    # Written anew, they are the same lines.
    File.write!(path, Enum.map(lines, &line/1))
    {^lines, :whole} = read(path)
    ending
  end

  defp named(name, check) do
    check.()
  rescue
    problem ->
      message = "#{name}: #{Exception.format(:error, problem, __STACKTRACE__)}"
      reraise RuntimeError, [message: message], __STACKTRACE__
  end

  defp read(path) do
    # What was read before the error is kept by the process, for the stream cannot return it.
    Process.put(__MODULE__, [])

    ending =
      try do
        path
        |> Trace.stream!()
        |> Enum.each(&Process.put(__MODULE__, [&1 | Process.get(__MODULE__)]))

        :whole
      rescue
        error in Trace.Error ->
          # Named, and readable.
          true = String.starts_with?(error.message, path) and String.valid?(error.message)
          :refused
      end

    {Enum.reverse(Process.delete(__MODULE__)), ending}
  end

  defp line({message, seconds, channel, sender, mentioned}) do
    for id <- [message, seconds, channel, sender], do: true = id in 0..@largest
    users = if mentioned == :everybody, do: "*", else: Enum.map_join(mentioned, ",", &id/1)
    "#{message}\t#{seconds}\t#{channel}\t#{sender}\t#{users}\n"
  end

  defp id(id) when id in 0..@largest, do: Integer.to_string(id)

  defp damaged(corpus) do
    if :rand.uniform(3) == 1, do: corpus |> Enum.random() |> damage(), else: damaged_lines()
  end

  # Of one piece, or of several pieces as they are read, which takes a thousand times as long.
  defp damaged_lines do
    lines = if :rand.uniform(100) == 1, do: 3_000, else: :rand.uniform(4)
    text = Enum.map_join(1..lines, fn _ -> line(random_line()) end)

    case :rand.uniform(4) do
      1 -> text |> damage() |> :zlib.gzip()
      2 -> text |> :zlib.gzip() |> damage()
      _ -> damage(text)
    end
  end

  defp random_line do
    mentioned = Enum.random([[], [], :everybody, [random_id()], Enum.to_list(1..20)])
    {random_id(), random_id(), random_id(), random_id(), mentioned}
  end

  defp random_id, do: Enum.random([0, 7, @largest, :rand.uniform(@largest)])

  defp damage(bytes) do
    Enum.reduce(1..:rand.uniform(4), bytes, fn _, bytes ->
      at = :rand.uniform(byte_size(bytes) + 1) - 1
      <<before::binary-size(at), rest::binary>> = bytes
      {some, rest} = split(rest, :rand.uniform(40) - 1)

      case :rand.uniform(6) do
        1 -> before
        2 -> before <> rest
        3 -> before <> some <> some <> rest
        4 -> before <> Enum.random(@tokens) <> some <> rest
        5 -> before <> :rand.bytes(byte_size(some)) <> rest
        6 -> before <> flip(some) <> rest
      end
    end)
  end

  defp split(bytes, at), do: {binary_part(bytes, 0, min(at, byte_size(bytes))), drop(bytes, at)}

  defp drop(bytes, at) when at >= byte_size(bytes), do: ""
  defp drop(bytes, at), do: binary_part(bytes, at, byte_size(bytes) - at)

  defp flip(""), do: ""

  defp flip(<<byte, rest::binary>>),
    do: <<Bitwise.bxor(byte, Bitwise.bsl(1, :rand.uniform(8) - 1)), rest::binary>>
end
