defmodule ReadStates.Store.Handle do
  @moduledoc false
  # The calls on a store that is written in Rust, once it is open.

  alias ReadStates.{Batch, Native}

  # Entries a page.
  @page 10_000

  def load(store, users, cursor), do: page(Native.store_load(store, users, cursor, @page))
  # Of the stores of this library alone: all pages at once, without their going through the VM.
  def __load_into__(store, load), do: Native.load_from(load, store, @page)
  def scan(store, cursor), do: page(Native.store_scan(store, cursor, @page))
  def commit(store, %Batch{binary: binary}), do: Native.store_commit(store, binary)
  def close(store), do: Native.store_close(store)

  defp page({:ok, binary, next}), do: {:ok, %Batch{binary: binary}, next}
  defp page({:error, reason}), do: {:error, reason}
end
