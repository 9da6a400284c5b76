defmodule ReadStates.Crash.Watch do
  @moduledoc """
  Says on the standard output when a process is in the middle of a call of the NIF, and when that is over: as another
  process sees it, which looks all the time.
  """

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
        IO.puts(to_string(watch.phase))
        within(watch)
    end
  end

  defp within(watch) do
    if in_call?(watch) do
      within(watch)
    else
      IO.puts("#{watch.phase} is over")
      before(watch, watch.look.())
    end
  end

  defp in_call?(%{process: process, call: call}) do
    pid = Process.whereis(process)
    pid != nil and Process.info(pid, :current_function) == {:current_function, call}
  end
end
