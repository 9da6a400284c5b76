defmodule ReadStates.Bench.DiscardingStore do
  @moduledoc false
  # A store that keeps nothing, so that what the process takes is what the read states take. Good for an instance
  # that never evicts, and so never loads what it has committed.

  @behaviour ReadStates.Store

  @impl true
  def open(_opts, %{counters: counters}), do: {:ok, ReadStates.Batch.new([], length(counters)), 0}

  @impl true
  def load(nothing, _users, _cursor), do: {:ok, nothing, nil}

  @impl true
  def commit(_nothing, _batch), do: :ok

  @impl true
  def scan(nothing, _cursor), do: {:ok, nothing, nil}

  @impl true
  def close(_nothing), do: :ok
end
