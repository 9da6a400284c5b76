defmodule ReadStates.StoreContents do
  @moduledoc "What is in a store that nobody has open, given as an instance is given it: a module and its options."

  alias ReadStates.StoreContract

  @context %{name: __MODULE__, counters: [:mention_count]}

  @doc "Commits entries, whose rows have one counter."
  def fill(store, entries) do
    with_store(store, fn module, opened ->
      for entries <- Enum.chunk_every(entries, 7_000),
          do: :ok = StoreContract.commit(module, opened, entries)
    end)
  end

  @doc "All entries."
  def entries(store), do: with_store(store, &StoreContract.scan/2)

  defp with_store({module, opts}, fun) do
    {:ok, store, _floor} = module.open(opts, @context)
    result = fun.(module, store)
    :ok = module.close(store)
    result
  end
end
