defmodule ReadStates.Bench.Callers do
  @moduledoc false
  # Processes that make the calls of a run at the same time, one a scheduler.

  # Large heaps are collected by the dirty schedulers, which look for more to do for a while, on the cores of the run.
  @rest_ms 1

  # Time for all of them to wake up before a run, so that they begin it together.
  @head_start_ns 200_000

  # Room for some calls' results, so that garbage is collected about as often as in a process that lives a while.
  @heap_words 65_536

  def start(count) do
    coordinator = self()
    loop = fn -> loop(coordinator, []) end

    # Each stays on its scheduler. Else both may be woken on one, and the other takes one over when the run is half done.
    for n <- 1..count do
      :erlang.spawn_opt(loop, [:link, scheduler: n, min_heap_size: @heap_words])
    end
  end

  def stop(callers), do: ask(callers, :stop)

  # Each draws arguments of its own.
  def prepare(callers, draw), do: ask(callers, {:prepare, draw})

  # Nanoseconds from when the first of them begins to when the last of them is done.
  def run(callers, run) do
    ask(callers, :collect)
    Process.sleep(@rest_ms)
    at = System.monotonic_time(:nanosecond) + @head_start_ns
    {began, ended} = callers |> ask({:run, run, at}) |> Enum.unzip()
    Enum.max(ended) - Enum.min(began)
  end

  defp ask(callers, request) do
    Enum.each(callers, &send(&1, request))
    for caller <- callers, do: receive(do: ({^caller, answer} -> answer))
  end

  defp loop(coordinator, arguments) do
    receive do
      {:prepare, draw} ->
        arguments = draw.()
        send(coordinator, {self(), :ok})
        loop(coordinator, arguments)

      :collect ->
        # After both, the arguments are old, and a collection during the run does not copy them.
        :erlang.garbage_collect()
        :erlang.garbage_collect(self(), type: :minor)
        send(coordinator, {self(), :ok})
        loop(coordinator, arguments)

      {:run, run, at} ->
        wait(at)
        began = System.monotonic_time(:nanosecond)
        run.(arguments)
        ended = System.monotonic_time(:nanosecond)
        send(coordinator, {self(), {began, ended}})
        loop(coordinator, arguments)

      :stop ->
        send(coordinator, {self(), :ok})
    end
  end

  defp wait(at) do
    if System.monotonic_time(:nanosecond) < at, do: wait(at)
  end
end
