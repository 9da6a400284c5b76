defmodule ReadStates.DetsStoreTest do
  use ExUnit.Case, async: true

  @moduletag :tmp_dir

  use ReadStates.StoreContract,
    store: ReadStates.DetsStore,
    opts: fn context -> [path: Path.join(context.tmp_dir, "read_states.dets")] end

  test "the guide shows this store" do
    [_, store] =
      Regex.run(
        ~r/```elixir\n(defmodule MyApp.DetsStore .+?)```/s,
        File.read!("guides/writing_a_store.md")
      )

    source = File.read!("test/support/dets_store.ex")
    assert store == String.replace(source, "ReadStates.DetsStore", "MyApp.DetsStore")
  end
end
