defmodule ReadStates.Store.Remote do
  @moduledoc false
  # What the stores on a server share.
  #
  # Such a store is written in Rust, in a NIF library of its own, which is built only for an application that asks for it
  # (native/compile.exs). A module that uses this one, with the name of the library, has its functions, those of the macro
  # `nif!` in native/remote; the functions here call them.
  #
  # No scheduler waits for a server: a call starts the work on threads of the library, and the answer comes to the
  # process that called as a message. If the process is killed, the work ends. The library answers in any case, and within
  # a minute.

  alias ReadStates.{Batch, Library, Native}

  # Entries a page, about.
  @page 10_000

  # So that Mix compiles the library anew when the application asks for another store.
  @built Application.compile_env(:read_states, :stores, [])

  defmacro __using__(store: store, library: library) do
    quote do
      @on_load :load_library

      @doc false
      def load_library, do: ReadStates.Library.loaded(load_nif())

      @doc false
      def load_nif, do: :erlang.load_nif(String.to_charlist(library()), 0)

      # Without its extension.
      def library, do: Application.app_dir(:read_states, "priv/native/#{unquote(library)}")
      def store, do: unquote(store)
      def available, do: unloaded()
      def schema(_fields), do: unloaded()
      def set_up(_reference, _fields), do: unloaded()
      def open(_reference, _fields, _counters), do: unloaded()
      def load(_reference, _store, _users, _cursor, _limit), do: unloaded()
      def scan(_reference, _store, _cursor, _limit), do: unloaded()
      def commit(_reference, _store, _batch), do: unloaded()
      def close(_reference, _store), do: unloaded()

      defp unloaded, do: :erlang.nif_error(:nif_not_loaded)
    end
  end

  # `fields` is what the options became: a map of those of the Rust struct.
  def open(native, fields, %{counters: counters}) do
    with :ok <- available(native) do
      names = Enum.map(counters, &Atom.to_string/1)
      call(&native.open(&1, Native.fields(fields), names))
    end
  end

  # The statements that make what the store needs: {:ok, statements} or {:error, reason}.
  def schema(native, fields) do
    with :ok <- available(native), do: native.schema(Native.fields(fields))
  end

  # Runs them.
  def set_up(native, fields) do
    with :ok <- available(native), do: call(&native.set_up(&1, Native.fields(fields)))
  end

  def load(native, store, users, cursor) do
    page(call(&native.load(&1, store, users, cursor, @page)))
  end

  def scan(native, store, cursor), do: page(call(&native.scan(&1, store, cursor, @page)))

  def commit(native, store, %Batch{binary: binary}) do
    call(&native.commit(&1, store, binary))
  end

  def close(native, store), do: call(&native.close(&1, store))

  defp page({:ok, binary, next}), do: {:ok, %Batch{binary: binary}, next}
  defp page({:error, reason}), do: {:error, reason}

  defp call(start) do
    reference = make_ref()
    :ok = start.(reference)

    receive do
      {^reference, answer} -> answer
    end
  end

  defp available(native) do
    with {:error, text} <- Library.available(native) do
      if Path.wildcard(native.library() <> ".*") == [],
        do: {:error, {:not_built, not_built(native.store())}},
        else: {:error, {:not_loaded, "the library of this store cannot be loaded: #{text}"}}
    end
  end

  defp not_built(store) do
    "the library of this store has not been built: write `config :read_states, stores: #{inspect(@built ++ [store])}` " <>
      "into config/config.exs of the application, and run `mix deps.compile read_states --force`"
  end
end
