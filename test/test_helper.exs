# PropEr is the machine's own (Debian: erlang-proper). Elixir 1.15 and later take its folder out of the code path
# unless asked; where it is not installed, the tests that need it are left out.
if function_exported?(Mix, :ensure_application!, 1) do
  try do
    Mix.ensure_application!(:proper)
  rescue
    Mix.Error -> :ok
  end
end

without_proper =
  if Code.ensure_loaded?(:proper) do
    []
  else
    IO.puts(
      :stderr,
      "PropEr is not installed (Debian: erlang-proper): tests tagged :proper are left out"
    )

    [:proper]
  end

# What panics needs a second NIF: `script/test` includes it. Servers that are not there are left out by name, and a disk to fill
# where none can be mounted.
#
# A test may take five minutes: most take a second, but not on a machine that is busy with something else, and those of a real
# server wait for its disk.
ExUnit.start(
  timeout: 300_000,
  exclude:
    [:fail_points] ++
      without_proper ++ ReadStates.Services.left_out() ++ ReadStates.FullDisk.left_out()
)
