defmodule ReadStates.LibraryTest do
  use ExUnit.Case, async: true

  alias ReadStates.Library

  defmodule Late do
    # Not there when its module was loaded, and there when it is looked for again.
    def available, do: :erlang.nif_error(:nif_not_loaded)
    def load_nif, do: :ok
  end

  defmodule Another do
    def available, do: :erlang.nif_error(:nif_not_loaded)
    def load_nif, do: {:error, {:load_failed, ~c"another C library"}}
  end

  test "it is looked for again, and the reason is what the system says" do
    assert Library.available(ReadStates.Native) == :ok
    assert Library.available(__MODULE__.Late) == :ok
    assert Library.available(__MODULE__.Another) == {:error, "another C library"}
  end

  @tag :tmp_dir
  test "without it an application starts, and an instance says why it does not", %{tmp_dir: dir} do
    # There is no `priv` beside it.
    ebin = Path.join(dir, "read_states/ebin")
    File.mkdir_p!(ebin)
    File.cp_r!(Application.app_dir(:read_states, "ebin"), ebin)

    said =
      run(ebin, """
      {:error, {:not_loaded, text}} = ReadStates.start_link(store: ReadStates.Store.Memory)
      IO.puts(text)
      """)

    assert said =~ ~r/^the library cannot be loaded: .*read_states_nif/m
  end

  test "an instance goes on where somebody loads the code anew" do
    run(Application.app_dir(:read_states, "ebin"), """
    {:ok, _pid} = ReadStates.start_link(store: ReadStates.Store.Memory)
    {:error, :on_load_failure} = :code.load_file(ReadStates.Native)
    :ok = ReadStates.ack(ReadStates, 1, 10, 100)
    """)
  end

  # In a VM of its own, with the application of this folder.
  defp run(ebin, code) do
    code = "{:ok, _apps} = Application.ensure_all_started(:read_states)\n" <> code
    {said, status} = System.cmd("elixir", ["-pa", ebin, "-e", code], stderr_to_stdout: true)
    assert {status, said} == {0, said}
    said
  end
end
