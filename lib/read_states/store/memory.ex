defmodule ReadStates.Store.Memory do
  @moduledoc """
  Keeps read states in memory, for tests.

      {ReadStates, name: MyApp.ReadStates, store: ReadStates.Store.Memory}

  The data belongs to no process. It is gone when nothing refers to it any more, so an instance that is stopped and
  started begins empty, unless both are given the same data:

      iex> data = ReadStates.Store.Memory.new()
      iex> context = %{name: MyApp.ReadStates, counters: [:mention_count]}
      iex> {:ok, store, 0} = ReadStates.Store.Memory.open([data: data], context)
      iex> :ok = ReadStates.Store.Memory.commit(store, ReadStates.Batch.new([{:delete, 7, 8}], 1))
      iex> :ok = ReadStates.Store.Memory.close(store)
      iex> {:ok, _store, floor} = ReadStates.Store.Memory.open([data: data], context)
      iex> floor
      8

  ## Options

  - `:data` (what `new/0` returned; default: new data) - what to open.

  After `c:ReadStates.Store.close/1` calls return `{:error, :closed}`; with nine under way the next is `{:error, :busy}`, of which an instance makes fewer.
  """

  @behaviour ReadStates.Store

  alias ReadStates.{Argument, Native}
  alias ReadStates.Store.Handle

  @typedoc "The data of a store in memory."
  @opaque data :: reference

  @doc """
  Returns data with nothing in it, for the option `:data`.
  """
  @spec new() :: data
  def new, do: Native.memory_new()

  @impl true
  def open(opts, %{counters: counters}) do
    data = Argument.options!(opts, [:data])[:data] || new()

    try do
      Native.memory_open(data, length(counters))
    rescue
      # It is no reference, or one to something else.
      ArgumentError ->
        Argument.invalid!(:data, data, "what ReadStates.Store.Memory.new/0 returned")
    end
  end

  @impl true
  defdelegate load(store, users, cursor), to: Handle

  @doc false
  defdelegate __load_into__(store, load), to: Handle

  @impl true
  defdelegate commit(store, batch), to: Handle

  @impl true
  defdelegate scan(store, cursor), to: Handle

  @impl true
  defdelegate close(store), to: Handle
end
