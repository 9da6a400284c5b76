defmodule ReadStates.OtherVM do
  @moduledoc "Another VM with the library, that can be killed with `kill -9`."

  @doc """
  Starts one that runs `code`. What it writes comes in lines, see `await/2`.

  It has the library of this one, unless `:ebin` is another's, and `:env`, strings by strings, in its environment.
  """
  def start(code, opts \\ []) do
    ebin = opts[:ebin] || Application.app_dir(:read_states, "ebin")
    env = for {name, value} <- opts[:env] || [], do: {to_charlist(name), to_charlist(value)}

    Port.open({:spawn_executable, System.find_executable("elixir")}, [
      :binary,
      :exit_status,
      :stderr_to_stdout,
      line: 10_000,
      env: env,
      args: ["-pa", ebin, "-e", code]
    ])
  end

  @doc """
  Waits until it has written this line, or one of these, and returns it; raises with what it wrote if it ends before.
  """
  def await(vm, awaited, said \\ []) do
    receive do
      {^vm, {:data, {_end, line}}} ->
        if line in List.wrap(awaited), do: line, else: await(vm, awaited, [line | said])

      {^vm, {:exit_status, status}} ->
        raise "ended with #{status}:\n#{lines(said)}"
    after
      120_000 -> raise "says nothing more:\n#{lines(said)}"
    end
  end

  @doc "Writes a line to it."
  def tell(vm, line), do: Port.command(vm, [line, ?\n])

  @doc """
  Kills it, unless it has ended by itself, and returns what `await_end/1` does.
  """
  def kill(vm) do
    with {:os_pid, pid} <- Port.info(vm, :os_pid) do
      System.cmd("kill", ["-9", to_string(pid)], stderr_to_stdout: true)
    end

    await_end(vm)
  end

  @doc "Waits until it has ended, killed or by itself but not with an error, and returns the lines it wrote that were not awaited."
  def await_end(vm), do: await_end(vm, [])

  @doc "Runs `code` to its end, and kills it then."
  def run_and_kill(code) do
    vm = start("#{code}\nIO.puts(\"all of it ran\")\nProcess.sleep(:infinity)")
    await(vm, "all of it ran")
    kill(vm)
  end

  defp await_end(vm, said) do
    receive do
      {^vm, {:exit_status, status}} when status in [0, 137] -> Enum.reverse(said)
      {^vm, {:exit_status, status}} -> raise "ended with #{status}:\n#{lines(said)}"
      {^vm, {:data, {:eol, line}}} -> await_end(vm, [line | said])
      {^vm, {:data, {:noeol, _cut}}} -> await_end(vm, said)
    after
      120_000 -> raise "lives on:\n#{lines(said)}"
    end
  end

  defp lines(said), do: said |> Enum.reverse() |> Enum.join("\n")
end
