defmodule ReadStates.Crash.Watch do
  @moduledoc """
  Lets the VM be killed when a process is in the middle of a call of the NIF, see `ReadStates.Crash.Killer`: as another process sees
  it, which looks all the time.
  """

  alias ReadStates.Crash.Killer
  alias ReadStates.Native

  @doc """
  Of the process of this name, and of the call of one argument of this name. It is in the middle of it as soon as what
  `look` returns is not what it was before.
  """
  def start(phase, process, call, look) do
    watch = %{phase: phase, process: process, call: {Native, call, 1}, look: look}

    spawn_link(fn ->
      Process.flag(:priority, :high)
      before(watch, look.())
    end)
  end

  defp before(watch, last) do
    seen = watch.look.()

    cond do
      not in_call?(watch) ->
        before(watch, seen)

      seen == last ->
        before(watch, last)

      true ->
        # Not always at its beginning: it takes some ten milliseconds.
        if watch.phase == :recovering, do: Process.sleep(:rand.uniform(10) - 1)
        if in_call?(watch), do: Killer.within(watch.phase, fn -> await_end(watch) end)
        before(watch, watch.look.())
    end
  end

  defp await_end(watch), do: in_call?(watch) && await_end(watch)

  defp in_call?(%{process: process, call: call}) do
    pid = Process.whereis(process)
    pid != nil and Process.info(pid, :current_function) == {:current_function, call}
  end
end
