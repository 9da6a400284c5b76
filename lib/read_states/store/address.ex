defmodule ReadStates.Store.Address do
  @moduledoc false
  # A store in one word, for command lines. `mix read_states.copy` documents it.

  @doc "What an instance is given as `:store`. Raises `ArgumentError`, which does not show a password."
  @spec parse!(String.t()) :: module | {module, keyword}
  def parse!(address) do
    case String.split(address, ":", parts: 2) do
      ["local", path] when path != "" -> {ReadStates.Store.Local, path: path}
      _other -> elixir!(address)
    end
  end

  # As in a program. It may say where a password is rather than the password.
  defp elixir!(address) do
    unless address =~ ~r/\A[A-Z{(]/ do
      raise ArgumentError,
            "must be local:PATH, or a store as an instance is given it: a module or {module, options}"
    end

    try do
      {store, _bindings} = Code.eval_string(address)
      store
    rescue
      # Of what is in it nothing is shown.
      error ->
        raise ArgumentError, "must be Elixir: #{inspect(error.__struct__)} when it was evaluated"
    end
  end
end
