defmodule ReadStates.Eventually do
  @moduledoc "Waiting for what other processes do."

  @pause 10
  @patience 30_000

  @doc "Calls `fun` until it returns neither nil nor false, and returns that; fails after 30 seconds."
  def eventually(fun), do: eventually(fun, System.monotonic_time(:millisecond) + @patience)

  defp eventually(fun, deadline) do
    cond do
      value = fun.() ->
        value

      System.monotonic_time(:millisecond) > deadline ->
        ExUnit.Assertions.flunk("this did not happen within 30 seconds: #{inspect(fun)}")

      true ->
        Process.sleep(@pause)
        eventually(fun, deadline)
    end
  end
end
