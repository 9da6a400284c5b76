defmodule ReadStates.TelemetryStandIn do
  @moduledoc """
  As much of `:telemetry` as the tests need, for machines without Hex. It is a module only between `install/0` and
  `remove/0`, because an instance emits no events where there is none.
  """

  @doc "Makes `:telemetry`, unless the package is there. Says whether it did."
  def install do
    if Code.ensure_loaded?(:telemetry) do
      {:ok, _started} = Application.ensure_all_started(:telemetry)
      false
    else
      Module.create(:telemetry, body(), Macro.Env.location(__ENV__))
      true
    end
  end

  @doc "Takes it away again."
  def remove do
    :code.delete(:telemetry)
    :code.purge(:telemetry)
    :persistent_term.erase(:telemetry)
  end

  defp body do
    quote do
      def attach_many(id, events, fun, config) do
        handlers = :persistent_term.get(:telemetry, %{})
        :persistent_term.put(:telemetry, Map.put(handlers, id, {events, fun, config}))
      end

      def detach(id) do
        :persistent_term.put(:telemetry, Map.delete(:persistent_term.get(:telemetry), id))
      end

      def execute(event, measurements, metadata) do
        for {_id, {events, fun, config}} <- :persistent_term.get(:telemetry, %{}),
            event in events do
          fun.(event, measurements, metadata, config)
        end

        :ok
      end
    end
  end
end
