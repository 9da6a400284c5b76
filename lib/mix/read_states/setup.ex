defmodule Mix.ReadStates.Setup do
  @moduledoc false
  # What the tasks have in common that make the tables of a store on a server.

  alias ReadStates.Secret

  @tls [cacertfile: :string, certfile: :string, keyfile: :string, verify_host: :boolean]

  # The options of a command line: those of the task, and those that all have.
  def parse!(args, switches) do
    strict = switches ++ [print: :boolean, tls: :boolean] ++ @tls

    case OptionParser.parse(args, strict: strict) do
      {opts, [], []} -> with_tls(opts)
      {_opts, _args, [{option, _value} | _]} -> Mix.raise("#{option}: unknown, or a wrong value")
      # It may be a URL with a password, so it is not shown.
      {_opts, [_argument | _], _invalid} -> Mix.raise("there is more than the options")
    end
  end

  defp with_tls(opts) do
    {tls, opts} = Keyword.split(opts, Keyword.keys(@tls))

    case {opts[:tls], tls} do
      {true, tls} -> Keyword.put(opts, :tls, tls)
      {_no, []} -> Keyword.delete(opts, :tls)
      {_no, [{option, _value} | _]} -> Mix.raise("--#{option}: only with --tls")
    end
  end

  # Prints the statements of a store, or runs them and says what is `there`. Nothing of `secret` is shown.
  def run(store, opts, secret, there) do
    {print, opts} = Keyword.pop(opts, :print, false)
    secret = Secret.seal(secret)

    if print do
      for statement <- done!(secret, fn -> store.schema(opts) end),
          do: Mix.shell().info(statement <> ";")
    else
      done!(secret, fn -> store.set_up(opts) end)
      Mix.shell().info(there)
    end
  end

  defp done!(secret, fun) do
    case Secret.guard(secret, fun) do
      :ok -> :ok
      {:ok, result} -> result
      {:error, {%ArgumentError{message: message}, _stacktrace}} -> Mix.raise(message)
      {:error, {reason, text}} when is_atom(reason) -> Mix.raise(text)
      {:error, reason} -> Mix.raise(inspect(reason))
    end
  end
end
