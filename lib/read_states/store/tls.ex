defmodule ReadStates.Store.TLS do
  @moduledoc false
  # The option `:tls` of the stores on a server: `true`, or files and whether the host is verified.

  alias ReadStates.{Argument, Native}

  @defaults %{cacertfile: nil, certfile: nil, keyfile: nil, verify_host: true}

  def check!(value) when value in [nil, false, true], do: :ok

  def check!(opts) do
    Argument.options!(opts, Map.keys(@defaults), :tls)

    for {name, value} <- opts do
      if name == :verify_host,
        do: check!(name, value, is_boolean(value), "true or false"),
        else:
          check!(name, value, Argument.text?(value), "the path of a PEM file, a string in UTF-8")
    end

    if Keyword.has_key?(opts, :certfile) != Keyword.has_key?(opts, :keyfile) do
      raise ArgumentError, "tls[:certfile] and tls[:keyfile] must be given together"
    end
  end

  defp check!(name, value, possible?, allowed) do
    unless possible?, do: Argument.invalid!("tls[:#{name}]", value, allowed)
  end

  # Those of the Rust struct, or nil.
  def fields(value) when value in [nil, false], do: nil
  def fields(true), do: fields([])
  def fields(opts), do: @defaults |> Map.merge(Map.new(opts)) |> Native.fields()
end
