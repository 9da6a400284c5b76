defmodule ReadStates.Warning do
  @moduledoc false
  # When to warn that a store fails: once an outage, and not once a try; and where some calls fail and others do not, now and
  # then.

  require Logger

  # Milliseconds between warnings.
  @silence 10_000

  # Whether it has warned since the last success, and when it did at all.
  defstruct warned: false, at: nil

  # Warns that an instance could not do something, if it is time to.
  def log(%__MODULE__{} = warning, %{name: name}, what, reason) do
    {warn, warning} = failed(warning)

    if warn do
      Logger.warning("#{inspect(name)} could not #{what}, and goes on trying: #{inspect(reason)}")
    end

    warning
  end

  # Whether to warn of this failure.
  def failed(%__MODULE__{} = warning) do
    now = System.monotonic_time(:millisecond)

    if warning.warned or (warning.at != nil and now < warning.at + @silence),
      do: {false, warning},
      else: {true, %__MODULE__{warned: true, at: now}}
  end

  def over(%__MODULE__{} = warning), do: %{warning | warned: false}
end
