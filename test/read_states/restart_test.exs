defmodule ReadStates.RestartTest do
  use ReadStates.InstanceCase, async: true

  alias ReadStates.{Archivist, Committer, Instance, Loader, Recoverer, Steward, Syncer}

  @moduletag :tmp_dir

  # An instance whose engine answers nothing: whatever a process asks of it raises.
  setup %{name: name, tmp_dir: dir} do
    start!(name, store: {Local, path: Path.join(dir, "store")}, journal: [sync_every: 10])
    broken = Module.concat(name, Broken)

    :persistent_term.put(Instance.key(broken), %{
      Instance.fetch!(name)
      | name: broken,
        engine: make_ref()
    })

    on_exit(fn -> :persistent_term.erase(Instance.key(broken)) end)
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
      started = System.monotonic_time(:millisecond)
      {:ok, pid} = GenServer.start(unquote(process), argument)
      ended = Process.monitor(pid)
      assert_receive {:DOWN, ^ended, _, _, {:badarg, [_ | _]}}, 30_000
      assert System.monotonic_time(:millisecond) - started >= 1_000
    end
  end
end
