defmodule ReadStates.Store.Address do
  @moduledoc false
  # A store in one word, for command lines. `mix read_states.copy` documents it.

  alias ReadStates.Store.{Cassandra, Local, Postgres}

  @doc "What an instance is given as `:store`. Raises `ArgumentError`, which does not show a password."
  @spec parse!(String.t()) :: module | {module, keyword}
  def parse!(address) do
    case String.split(address, ":", parts: 2) do
      ["local", path] when path != "" ->
        {Local, path: path}

      ["postgres"] ->
        {Postgres, []}

      [scheme, "//" <> _server] when scheme in ["postgres", "postgresql"] ->
        {Postgres, url: address}

      ["cassandra", cluster] ->
        {Cassandra, cassandra!(cluster)}

      _other ->
        elixir!(address)
    end
  end

  defp cassandra!(cluster) do
    with [nodes, keyspace] when keyspace != "" <- String.split(cluster, "/"),
         [_ | _] = nodes <- String.split(nodes, ",", trim: true) do
      [contact_points: nodes, keyspace: keyspace]
    else
      _other -> raise ArgumentError, "must be cassandra:HOST[:PORT],.../KEYSPACE"
    end
  end

  # As in a program. It may say where a password is rather than the password.
  defp elixir!(address) do
    unless address =~ ~r/\A[A-Z{(]/ do
      raise ArgumentError,
            "must be local:PATH, postgres, postgres://..., cassandra:HOST,.../KEYSPACE, or a store as an instance is given " <>
              "it: a module or {module, options}"
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
