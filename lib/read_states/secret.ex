defmodule ReadStates.Secret do
  @moduledoc false
  # The options of a store may have a password in them, and so may what the store makes of them. It
  # must not be seen in a log, an error or an inspected term.

  # An option whose name has one of these in it has a value that is not to be seen. By parts of names, for too much that
  # is hidden is a nuisance, and too little a leak. However the parts are joined: api_key, api-key and apiKey are one.
  @names ~w(pass pwd secret token credential auth cookie apikey accesskey privatekey url uri dsn)
  @hidden "[hidden]"

  # A function shows nothing of what it holds, to whoever prints it: the inspect protocol, the
  # formats of Erlang, a report of a crash, a supervisor that lists its children.
  def seal(term), do: fn -> term end

  def unseal(sealed) when is_function(sealed, 0), do: sealed.()

  # Calls `fun`, which calls the store that has these sealed options. Whatever goes wrong in it is an
  # error, and what it says has no secret in it.
  def guard(options, fun) do
    case fun.() do
      {:error, reason} -> {:error, hide(reason, options)}
      result -> result
    end
  catch
    :error, error ->
      exception = Exception.normalize(:error, error, __STACKTRACE__)
      {:error, hide({exception, __STACKTRACE__}, options)}

    kind, reason ->
      {:error, hide({kind, reason}, options)}
  end

  # The term with every secret of the sealed options replaced, however deep.
  def hide(term, options) do
    case options |> unseal() |> strings(false) |> Enum.flat_map(&spellings/1) |> Enum.uniq() do
      [] -> term
      secrets -> replace(term, secrets)
    end
  end

  # The strings in a term that are secret.
  defp strings(text, true) when is_binary(text) and text != "", do: [text | strings(text, false)]
  defp strings(text, false) when is_binary(text), do: in_address(text)

  defp strings({name, value}, secret?) when is_atom(name) or is_binary(name) do
    strings(name, secret?) ++ strings(value, secret? or secret?(name))
  end

  defp strings(%{} = map, secret?), do: map |> Map.to_list() |> strings(secret?)

  defp strings(tuple, secret?) when is_tuple(tuple),
    do: tuple |> Tuple.to_list() |> strings(secret?)

  defp strings([_ | _] = list, secret?) do
    if :io_lib.printable_unicode_list(list) do
      list |> List.to_string() |> strings(secret?)
    else
      elements(list, &strings(&1, secret?))
    end
  end

  defp strings(_other, _secret?), do: []

  defp elements([head | tail], fun), do: fun.(head) ++ elements(tail, fun)
  defp elements([], _fun), do: []
  defp elements(improper, fun), do: fun.(improper)

  defp secret?(name) do
    name = name |> to_string() |> String.downcase() |> String.replace(["_", "-"], "")
    Enum.any?(@names, &String.contains?(name, &1))
  end

  # Whatever the option is called.
  defp in_address(text) do
    for [password] <- Regex.scan(~r{://[^/@\s]*:([^/@\s]+)@}, text, capture: :all_but_first),
        spelling <- [password, unescape(password)],
        do: spelling
  end

  defp unescape(text) do
    Regex.replace(~r/%([0-9a-fA-F]{2})/, text, fn _, hex -> <<String.to_integer(hex, 16)>> end)
  end

  # As it is, in an inspected string, and in an address.
  defp spellings(secret) do
    inspected = secret |> inspect(printable_limit: :infinity) |> String.slice(1..-2//1)
    [secret, inspected, URI.encode_www_form(secret)]
  end

  defp replace(text, secrets) when is_binary(text) do
    :binary.replace(text, secrets, @hidden, [:global])
  end

  defp replace([head | tail] = list, secrets) do
    if :io_lib.printable_unicode_list(list) do
      list |> List.to_string() |> replace(secrets) |> String.to_charlist()
    else
      [replace(head, secrets) | replace(tail, secrets)]
    end
  end

  defp replace(tuple, secrets) when is_tuple(tuple) do
    tuple |> Tuple.to_list() |> replace(secrets) |> List.to_tuple()
  end

  # A struct too.
  defp replace(%{} = map, secrets) do
    :maps.from_list(
      for {key, value} <- :maps.to_list(map), do: {replace(key, secrets), replace(value, secrets)}
    )
  end

  defp replace(other, _secrets), do: other
end
