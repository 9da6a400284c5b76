defmodule ReadStates.RecordingStore do
  @moduledoc """
  A store in front of another that writes down, in the file `:record`, what was committed: of each commit the entries, as a term
  with its length before it. `:store` is the other one's module and options.
  """

  @behaviour ReadStates.Store

  @impl true
  def open(opts, context) do
    {module, store_opts} = opts[:store]

    with {:ok, store, floor} <- module.open(store_opts, context),
         do: {:ok, %{module: module, store: store, record: opts[:record]}, floor}
  end

  @impl true
  def load(%{module: module, store: store}, users, cursor), do: module.load(store, users, cursor)

  # Before the commit, for whatever is found in the store must be in the record.
  @impl true
  def commit(%{module: module, store: store, record: record}, batch) do
    term = :erlang.term_to_binary(Enum.to_list(batch))
    File.write!(record, [<<byte_size(term)::32>>, term], [:append])
    module.commit(store, batch)
  end

  @impl true
  def scan(%{module: module, store: store}, cursor), do: module.scan(store, cursor)

  @impl true
  def shared?(%{module: module, store: store}) do
    function_exported?(module, :shared?, 1) and module.shared?(store)
  end

  @impl true
  def close(%{module: module, store: store}), do: module.close(store)

  @doc "The entries in a record, in the order of their commits. What is being written at its end is left out."
  def entries(record), do: record |> File.read!() |> terms() |> List.flatten()

  defp terms(<<size::32, term::binary-size(size), rest::binary>>),
    do: [:erlang.binary_to_term(term) | terms(rest)]

  defp terms(_rest), do: []
end
