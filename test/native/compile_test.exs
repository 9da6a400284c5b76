defmodule Mix.Tasks.Compile.ReadStatesNativeTest do
  # Not async: what cargo is found is up to the environment of the whole VM.
  use ExUnit.Case, async: false

  alias Mix.Tasks.Compile.ReadStatesNative

  setup do
    shell = Mix.shell()
    Mix.shell(Mix.Shell.Process)
    environment = Map.new(["PATH", "CARGO_HOME"], &{&1, System.get_env(&1)})

    on_exit(fn ->
      Mix.shell(shell)
      System.put_env(environment)
    end)
  end

  defp installed, do: Application.app_dir(:read_states, "priv/native/read_states_nif.so")

  test "has nothing to do the second time" do
    ReadStatesNative.run([])
    before = File.stat!(installed())

    assert ReadStatesNative.run([]) == {:noop, []}
    assert File.stat!(installed()) == before
  end

  test "replaces a library that is not the built one, without writing into its file" do
    {:noop, []} = ReadStatesNative.run([])
    bytes = File.read!(installed())
    File.rm!(installed())
    File.write!(installed(), "another")
    File.ln!(installed(), installed() <> ".loaded")

    assert ReadStatesNative.run([]) == {:ok, []}
    assert File.read!(installed()) == bytes
    assert File.read!(installed() <> ".loaded") == "another"
  after
    File.rm(installed() <> ".loaded")
  end

  test "cleans up, and builds again" do
    ReadStatesNative.clean()
    refute File.exists?(installed())

    assert ReadStatesNative.run([]) == {:ok, []}
    assert File.exists?(installed())
  end

  @tag :tmp_dir
  test "says in one line what to install where there is no cargo", %{tmp_dir: tmp_dir} do
    System.put_env(%{"PATH" => tmp_dir, "CARGO_HOME" => tmp_dir})

    assert_raise Mix.Error,
                 ~r"^there is no cargo to build read_states with: install Rust \d+\.\d+ or newer \(https://rustup.rs\)$",
                 fn -> ReadStatesNative.run([]) end
  end

  @tag :tmp_dir
  test "says in one line that cargo is too old", %{tmp_dir: tmp_dir} do
    # What Debian 12's cargo does with this workspace.
    cargo = Path.join(tmp_dir, "cargo")
    File.write!(cargo, "#!/bin/sh\n[ $1 = --version ] && echo cargo 1.66.0-nightly || exit 101\n")
    File.chmod!(cargo, 0o755)
    System.put_env("PATH", tmp_dir)

    assert {:error, [%Mix.Task.Compiler.Diagnostic{severity: :error, message: message}]} =
             ReadStatesNative.run([])

    assert message =~
             ~r"^cargo could not build .* with cargo 1.66.0-nightly: install Rust .* \(https://rustup.rs\)$"

    assert_received {:mix_shell, :error, [^message]}
  end
end
