defmodule ReadStates.Bench.ResidentMemory do
  @moduledoc false
  # What the whole process takes of the machine's memory, after a collection of all garbage; nil where there is no /proc.

  # Twice as long as the library's allocator keeps what is free.
  @pause_ms 20_000

  def bytes do
    Enum.each(Process.list(), &:erlang.garbage_collect/1)
    Process.sleep(@pause_ms)

    with {:ok, status} <- File.read("/proc/self/status"),
         [_line, kibibytes] <- Regex.run(~r/^VmRSS:\s+(\d+) kB$/m, status) do
      String.to_integer(kibibytes) * 1024
    else
      _not_linux -> nil
    end
  end
end
