defmodule ReadStates.RestartTest do
  use ReadStates.InstanceCase, async: true

  alias ReadStates.{Archivist, Committer, Instance, Loader, Recoverer, Steward, Syncer}

  @moduletag :tmp_dir

  # An instance whose engine answers nothing: whatever a process asks of it raises.
  setup %{name: name, tmp_dir: dir} do
    start!(name, store: {Local, path: Path.join(dir, "store")}, journal: [sync_every: 10])
    broken = Module.concat(name, Broken)
    key = {ReadStates, broken}
    :persistent_term.put(key, %{Instance.fetch!(name) | name: broken, engine: make_ref()})
    on_exit(fn -> :persistent_term.erase(key) end)
    %{broken: broken}
  end

  for {process, argument} <- [
        {Archivist, :name},
        {Committer, :part},
        {Loader, :part},
        {Recoverer, :name},
        {Steward, :name},
        {Syncer, :name}
      ] do
    test "#{inspect(process)} waits before it dies of an error", %{broken: broken} do
      argument = if unquote(argument) == :part, do: {broken, 0}, else: broken
      {:ok, pid} = GenServer.start(unquote(process), argument)
      ended = Process.monitor(pid)
      eventually(fn -> sleeps?(pid) end)
      refute_received {:DOWN, ^ended, _, _, _}
      assert_receive {:DOWN, ^ended, _, _, {:badarg, [_ | _]}}, 10_000
    end
  end

  test "one that was killed does not wait", %{name: name} do
    process = Instance.syncer(name)
    pid = Process.whereis(process)
    ended = Process.monitor(pid)
    Process.exit(pid, :kill)
    assert_receive {:DOWN, ^ended, _, _, :killed}, 10_000
    eventually(fn -> Process.whereis(process) not in [nil, pid] end)
  end

  # No process of an instance sleeps for another reason than Restart.delay/1.
  defp sleeps?(pid),
    do: Process.info(pid, :current_function) == {:current_function, {Process, :sleep, 1}}
end
