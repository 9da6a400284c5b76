defmodule ReadStates.Flush do
  @moduledoc false
  # Commits everything that was accepted before, in all partitions at once.

  alias ReadStates.{Committer, Instance}

  @pause 10
  # Milliseconds that a committer may be away: it is restarted, unless its supervisor is gone.
  @patience 5_000

  # The deadline is in monotonic milliseconds, or :infinity.
  def run(%{name: name}, deadline) do
    0..(Instance.partitions() - 1)
    |> Enum.map(&{&1, Committer.request_commit(name, &1)})
    |> Enum.map(fn {partition, request} ->
      await(name, partition, request, deadline, @patience)
    end)
    |> Enum.find(:ok, &(&1 != :ok))
  end

  defp await(name, partition, request, deadline, patience) do
    case :gen_server.receive_response(request, remaining(deadline)) do
      {:reply, answer} -> answer
      :timeout -> {:error, :timeout}
      {:error, {:noproc, _committer}} -> again(name, partition, deadline, patience - @pause)
      {:error, {_reason, _committer}} -> again(name, partition, deadline, @patience)
    end
  end

  # A committer that died has lost who waited, not what is dirty.
  defp again(name, partition, deadline, patience) do
    cond do
      Instance.find(name) == nil or patience <= 0 ->
        {:error, :closed}

      remaining(deadline) == 0 ->
        {:error, :timeout}

      true ->
        Process.sleep(@pause)
        request = Committer.request_commit(name, partition)
        await(name, partition, request, deadline, patience)
    end
  end

  defp remaining(:infinity), do: :infinity
  defp remaining(deadline), do: max(deadline - System.monotonic_time(:millisecond), 0)
end
