defmodule ReadStates.Eventually do
  @moduledoc "Waiting for what other processes do."

  @pause 10
  @patience 30_000

  @doc "Calls `fun` until it returns neither nil nor false, and returns that; fails after `patience` milliseconds."
  def eventually(fun, patience \\ @patience),
    do: until(fun, patience, System.monotonic_time(:millisecond) + patience)

  defp until(fun, patience, deadline) do
    cond do
      value = fun.() ->
        value

      System.monotonic_time(:millisecond) > deadline ->
        ExUnit.Assertions.flunk("this did not happen within #{patience} ms: #{inspect(fun)}")

      true ->
        Process.sleep(@pause)
        until(fun, patience, deadline)
    end
  end
end
