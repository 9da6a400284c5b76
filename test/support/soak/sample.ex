defmodule ReadStates.Soak.Sample do
  @moduledoc "What is looked at every few seconds of a long run: everything that might grow."

  @mib 1024 * 1024
  @bytes ~w(rss beam memory dirty reusable journal store)a
  @counts ~w(states load_queue pending channels mailbox processes files atoms)a

  @doc "The names of the figures, in the order in which they are shown."
  def figures, do: @bytes ++ @counts

  @doc "A figure as it is shown: bytes in MiB."
  def show(figure, value) when figure in @bytes,
    do: :erlang.float_to_binary(value / @mib, decimals: 1)

  def show(_figure, value), do: to_string(round(value))

  @doc "Figures of the VM, the instance and the directory of its store, by name."
  def take(name, store) do
    stats = ReadStates.stats(name)

    %{
      rss: resident(),
      beam: :erlang.memory(:total),
      memory: stats.memory,
      dirty: stats.dirty_memory,
      reusable: stats.reusable_memory,
      journal: stats.journal_size,
      store: size(store),
      states: stats.states,
      load_queue: stats.load_queue,
      pending: stats.pending_operations,
      channels: stats.channels,
      mailbox: longest_mailbox(),
      processes: length(Process.list()),
      files: open_files(),
      atoms: :erlang.system_info(:atom_count)
    }
  end

  @doc """
  By how much a figure may rise in a whole run, beside what is in the nature of it: the store writes new files before
  it removes the old ones, and the journal has what was written since the last commit.
  """
  def tolerances(mean) do
    [
      rss: 0.05 * mean.rss + 16 * @mib,
      beam: 0.05 * mean.beam + 8 * @mib,
      # What is dirty is part of it.
      memory: 0.05 * mean.memory + 0.25 * mean.dirty + 4 * @mib,
      dirty: 0.25 * mean.dirty + 4 * @mib,
      reusable: 0.1 * mean.reusable + 8 * @mib,
      journal: 0.25 * mean.journal + 8 * @mib,
      store: 0.25 * mean.store + 16 * @mib,
      states: 0.05 * mean.states + 1_000,
      load_queue: 0.25 * mean.load_queue + 1_000,
      pending: 0.25 * mean.pending + 25_000,
      channels: 0.25 * mean.channels + 1_000,
      mailbox: 100,
      processes: 20,
      files: 20,
      atoms: 100
    ]
  end

  # Of Linux.
  defp resident do
    status = File.read!("/proc/self/status")
    [_line, kibibytes] = Regex.run(~r/^VmRSS:\s+(\d+) kB$/m, status)
    String.to_integer(kibibytes) * 1024
  end

  defp open_files, do: length(File.ls!("/proc/self/fd"))

  defp longest_mailbox do
    lengths =
      for pid <- Process.list(),
          {:message_queue_len, length} <- [Process.info(pid, :message_queue_len)],
          do: length

    Enum.max(lengths)
  end

  # Of all files below; some may be gone in the next moment.
  defp size(path) do
    case File.lstat(path) do
      {:ok, %{type: :directory}} ->
        with {:ok, names} <- File.ls(path) do
          Enum.sum(for name <- names, do: size(Path.join(path, name)))
        else
          _gone -> 0
        end

      {:ok, %{size: size}} ->
        size

      {:error, _gone} ->
        0
    end
  end
end
