defmodule ReadStates.Store.RemoteTest do
  # Libraries that cannot be loaded. Those that can are in the tests of the stores.
  use ExUnit.Case, async: true

  alias ReadStates.Store.Remote

  @library "read_states_no_library"

  defmodule Unloadable do
    @moduledoc false
    use ReadStates.Store.Remote, store: :unloadable, library: "read_states_no_library"
  end

  defmodule Missing do
    @moduledoc false
    use ReadStates.Store.Remote, store: :missing, library: "read_states_nowhere"
  end

  test "a library that is not there is to be built" do
    assert {:error, {:not_built, text}} = Remote.open(Missing, %{}, %{counters: [:a]})
    assert text =~ ":missing]` into config/config.exs"
  end

  test "of a library that is there and cannot be loaded the system's reason is told" do
    file = Application.app_dir(:read_states, "priv/native/#{@library}.so")
    File.write!(file, "nothing that a system loads")
    on_exit(fn -> File.rm!(file) end)
    assert {:error, {:not_loaded, text}} = Remote.open(Unloadable, %{}, %{counters: [:a]})
    assert text =~ "the library of this store cannot be loaded: "
    # What the system's loader says names the file.
    assert text =~ @library
  end
end
