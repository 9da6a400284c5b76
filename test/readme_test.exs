defmodule ReadStates.ReadmeTest do
  use ExUnit.Case, async: true

  @tag :tmp_dir
  test "the program in the README runs as it stands there", %{tmp_dir: tmp_dir} do
    [_, program] = Regex.run(~r/```elixir\n(.*?)```/s, File.read!("README.md"))

    # Its instance shares the name with those of the doctests.
    program =
      program
      |> String.replace("MyApp.ReadStates", "ReadStates.ReadmeTest.Instance")
      |> String.replace("data/read_states", Path.join(tmp_dir, "read_states"))

    assert {{:ok, 0}, bindings} = Code.eval_string(program)
    assert [{ReadStates, _options}] = bindings[:children]
    assert ReadStates.total(ReadStates.ReadmeTest.Instance, 3) == {:ok, 1}
  end
end
