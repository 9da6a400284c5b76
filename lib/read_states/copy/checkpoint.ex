defmodule ReadStates.Copy.Checkpoint do
  @moduledoc false
  # The file that says how far a copy is: the cursor of the page that is next, and how many entries came
  # before it. It names the stores by a digest only, for they may have passwords.

  @magic "read_states copy 1\n"

  # nil for none.
  def new(path, stores) do
    {Path.expand(path), :crypto.hash(:sha256, :erlang.term_to_binary(stores))}
  end

  def read(nil), do: {nil, 0}

  def read({path, stores}) do
    case File.read(path) do
      {:ok, <<@magic, ^stores::binary-size(32), place::binary>>} ->
        :erlang.binary_to_term(place)

      {:ok, _other} ->
        throw({:copy, :resume, "resume: #{path} is of another copy, or something else"})

      {:error, :enoent} ->
        {nil, 0}

      {:error, reason} ->
        refused(path, reason)
    end
  end

  def write(nil, _cursor, _done), do: :ok

  # Whole or not at all.
  def write({path, stores}, cursor, done) do
    bytes = [@magic, stores, :erlang.term_to_binary({cursor, done})]

    with :ok <- File.write(path <> ".new", bytes),
         :ok <- File.rename(path <> ".new", path) do
      :ok
    else
      {:error, reason} -> refused(path, reason)
    end
  end

  def remove(nil), do: :ok

  def remove({path, _stores}) do
    File.rm(path)
    :ok
  end

  @spec refused(Path.t(), File.posix()) :: no_return
  defp refused(path, reason),
    do: throw({:copy, :resume, "resume: #{path}: #{:file.format_error(reason)}"})
end
