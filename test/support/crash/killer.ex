defmodule ReadStates.Crash.Killer do
  @moduledoc """
  Kills the VM in which it is with `kill -9`, in the middle of something. The process that does it was started before: what the
  VM is in the middle of may be over within a millisecond, and no fork and no other VM is on the way.
  """

  @doc "From now on, the VM is killed when `within/2` has been called so often."
  def start(times) do
    # It does not if the VM is gone before.
    code = "read -r now && kill -9 #{System.pid()}"
    options = [:binary, args: ["-c", code]]
    port = Port.open({:spawn_executable, System.find_executable("sh")}, options)
    :persistent_term.put(__MODULE__, {port, times, :atomics.new(1, [])})
  end

  @doc "Calls `fun`, in the middle of which the VM is killed if it is the time; says on the standard output if that was too late."
  def within(phase, fun) do
    {port, times, count} = :persistent_term.get(__MODULE__)
    now? = :atomics.add_get(count, 1, 1) == times
    if now?, do: Port.command(port, "now\n")
    result = fun.()
    if now?, do: over(phase)
    result
  end

  @doc "Says that the VM will not be killed in the middle of this any more."
  def over(phase), do: IO.puts("#{phase} is over")
end
