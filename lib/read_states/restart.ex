defmodule ReadStates.Restart do
  @moduledoc false
  # When a process of an instance that raised is restarted. The supervisor does so at once. For a defect in the engine, or in the
  # process, it might raise again at once, over and over, until the supervisor gives up with all of them. So it
  # waits before it dies: what it has to do is late then, and nothing is lost, for the engine has it.
  #
  # One that was killed, or that died with another, does not wait.

  # Shorter than the supervisor waits for one that it stops.
  @pause 1_000

  # For `c:GenServer.terminate/2`. Nothing but an error has a stack trace.
  def delay({_error, [{_module, _function, _arity, _location} | _stacktrace]}),
    do: Process.sleep(@pause)

  def delay(_exit), do: :ok
end
