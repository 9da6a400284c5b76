defmodule ReadStates.Journal do
  @moduledoc false
  # The journal of an instance: its options, and opening it. Its records and files are those of
  # native/journal and native/engine/src/journaling.rs.

  require Logger

  alias ReadStates.{Argument, Native, Options}
  alias ReadStates.Store.{Both, Local}

  @keys [:path, :max_size, :sync_every]
  @least_size 16 * 1024 * 1024
  @default_size 512 * 1024 * 1024
  @default_sync 100
  @most_sync 60_000

  # So many segments make a journal, unless they would be larger than the largest.
  @segments 16
  @largest_segment 16 * 1024 * 1024
  @page 64 * 1024
  # Damaged places that the log names one by one.
  @named 20

  # nil for no journal, or a map of all options.
  def options!(nil, {Local, _opts} = store), do: options!(true, store)
  def options!(none, _store) when none in [nil, false], do: nil
  def options!(true, store), do: options!([], store)

  def options!(opts, store) do
    unless is_list(opts), do: Argument.invalid!(:journal, opts, "true, false or a keyword list")
    opts = Argument.options!(opts, @keys, :journal)
    path = Keyword.get_lazy(opts, :path, fn -> default_path(store) end)

    unless is_binary(path) and path != "" do
      Argument.invalid!(:journal, opts, "given a :path, the path of a directory")
    end

    max_size = Keyword.get(opts, :max_size, @default_size)
    sync_every = Keyword.get(opts, :sync_every, @default_sync)
    Argument.integer!(:max_size, max_size, @least_size, 0xFFFF_FFFF_FFFF)
    Argument.integer!(:sync_every, sync_every, 0, @most_sync)
    %{path: Path.expand(path), max_size: max_size, sync_every: sync_every}
  end

  defp default_path({Local, opts}) do
    case opts[:path] do
      path when is_binary(path) -> Path.join(path, "journal")
      _refused_by_the_store -> "journal"
    end
  end

  defp default_path(_store), do: nil

  # {:ok, nil} without a journal. One that a Local store had, and that is not used any more, must be empty.
  def open(%{journal: nil} = options, owner), do: drop_left(options, nil, owner)

  def open(%{journal: journal} = options, owner) do
    with {:ok, nil} <- drop_left(options, journal.path, owner) do
      open_files(journal.path, journal.max_size, owner, journal.sync_every == 0)
    end
  end

  defp drop_left(options, used, owner) do
    left =
      for store <- options |> Options.store() |> locals(),
          path = store |> default_path() |> Path.expand(),
          path != used,
          do: path

    Enum.reduce_while(left, {:ok, nil}, fn path, none ->
      case drop_empty(path, owner) do
        {:ok, nil} -> {:cont, none}
        error -> {:halt, error}
      end
    end)
  end

  # The Local stores that a store is or has. What is wrong in options, the store refuses.
  defp locals(Local), do: locals({Local, []})
  defp locals({Local, opts}) when is_list(opts), do: [{Local, opts}]

  defp locals({Both, opts}) when is_list(opts) do
    Enum.flat_map([:from, :to], &locals(List.keyfind(opts, &1, 0, {&1, nil}) |> elem(1)))
  end

  defp locals(_other), do: []

  defp drop_empty(path, owner) do
    with {:ok, true} <- segments?(path),
         {:ok, journal} <- open_files(path, @least_size, owner, false) do
      case Native.journal_drop(journal) do
        {:ok, 0} ->
          {:ok, nil}

        {:ok, records} ->
          text =
            "the journal in #{path} has #{records} records that are not committed, or cannot be read"

          {:error, {:journal, {:not_empty, text}}}

        {:error, text} ->
          {:error, {:journal, {:io, text}}}
      end
    else
      {:ok, false} -> {:ok, nil}
      error -> error
    end
  end

  defp segments?(path) do
    case File.ls(path) do
      {:ok, files} -> {:ok, Enum.any?(files, &String.ends_with?(&1, ".journal"))}
      {:error, none} when none in [:enoent, :enotdir] -> {:ok, false}
      {:error, reason} -> {:error, {:journal, {:io, "#{path}: #{:file.format_error(reason)}"}}}
    end
  end

  # `exact` is whether those who write wait for a sync.
  defp open_files(path, max_size, owner, exact) do
    segment = max_size |> div(@segments) |> min(@largest_segment) |> div(@page)
    segment = segment * @page

    with {:error, {reason, text}} <-
           Native.journal_open(path, segment, div(max_size, segment), owner, exact) do
      {:error, {:journal, {reason, text}}}
    end
  end

  # What it has of an earlier life is known from now on, and is taken up by the recoverer.
  def recover(%{journal: nil}, _engine), do: :ok

  def recover(%{name: name}, engine) do
    case Native.recover(engine) do
      {:ok, {operations, cut, broken, damage, lost_by_store}} ->
        if operations > 0 do
          Logger.info("#{inspect(name)} has #{operations} operations from its journal to merge")
        end

        if cut > 0 do
          Logger.info("#{inspect(name)} dropped #{cut} operations of calls that never returned")
        end

        if broken > 0 do
          Logger.error(
            "#{inspect(name)} lost #{broken} operations of batches of which others are damaged, or the end is, unless " <>
              "they are of calls that never returned"
          )
        end

        if lost_by_store > 0 do
          Logger.error(
            "#{inspect(name)} lacks changes that its store had confirmed, up to those of #{time(lost_by_store)}: an " <>
              "older copy of the store was brought back, or it has lost them, or all if it is empty (a store that tells " <>
              "no floor seems to be). What the journal has is carried out on it"
          )
        end

        log_damage(name, damage)
        :ok

      {:error, {reason, text}} ->
        {:error, {:journal, {reason, text}}}
    end
  end

  defp log_damage(name, damage) do
    {named, others} = Enum.split(damage, @named)

    for {path, at, bytes} <- named do
      Logger.warning(
        "#{inspect(name)} could not read #{bytes} bytes of its journal, at #{at} of #{path}. " <>
          "Each call that was under way when the VM died can have left some"
      )
    end

    if others != [] do
      bytes = others |> Enum.map(&elem(&1, 2)) |> Enum.sum()

      Logger.warning(
        "#{inspect(name)} could not read #{bytes} bytes of its journal, at #{length(others)} more places"
      )
    end
  end

  # Versions are microseconds since 1970, unless a clock was set into another age.
  defp time(version) do
    case DateTime.from_unix(version, :microsecond) do
      {:ok, time} -> DateTime.to_string(time)
      {:error, _reason} -> "version #{version}"
    end
  end
end
