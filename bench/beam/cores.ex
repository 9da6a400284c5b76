defmodule ReadStates.Bench.Cores do
  @moduledoc false
  # Which cores of the machine somebody runs on, and for how long they had nothing to do. For Linux.

  # Calls `fun` while a server has the first core to itself, and this VM and `others` have the rest, as if it were on another machine.
  # All are ids of the operating system's processes.
  def apart(server, others, fun) do
    all = "0-#{count() - 1}"
    others = [String.to_integer(System.pid()) | others]
    pin([server | children(server)], "0")
    pin(others, "1-#{count() - 1}")

    try do
      fun.()
    after
      pin([server | children(server)] ++ others, all)
    end
  end

  # Seconds since the machine's start in which a core had nothing to do, by core.
  def idle do
    for line <- File.stream!("/proc/stat"),
        # In hundredths, on every Linux of today.
        [_cpu, _user, _nice, _system, idle | _] <- [String.split(line)],
        line =~ ~r/^cpu\d/,
        do: String.to_integer(idle) / 100
  end

  defp count, do: length(idle())

  defp children(pid), do: "/proc/#{pid}/task/#{pid}/children" |> File.read!() |> String.split()

  defp pin(pids, cores) do
    for pid <- pids do
      # One that has ended meanwhile needs no core.
      System.cmd("taskset", ["-a", "-c", "-p", cores, to_string(pid)], stderr_to_stdout: true)
    end
  end
end
