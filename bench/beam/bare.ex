defmodule ReadStates.Bench.Bare do
  @moduledoc false
  # The driver of a server alone: the program of bench/rust/src/bare.rs, which says what it may be asked for.

  # Builds it and starts it; it ends with the port that is returned.
  def start(program, args, env) do
    directory = Path.expand("../rust", __DIR__)
    cargo = System.find_executable("cargo")
    build = ["build", "--locked", "--quiet", "--release", "--bin", program]
    {_said, 0} = System.cmd(cargo, build, cd: directory, into: IO.stream())
    target = System.get_env("CARGO_TARGET_DIR", Path.join(directory, "target"))
    program = Path.join([target, "release", program])
    env = for {name, value} <- env, do: {to_charlist(name), to_charlist(value)}

    bare = Port.open({:spawn_executable, program}, [:binary, line: 1_000, args: args, env: env])

    receive do
      {^bare, {:data, {:eol, "ready"}}} -> bare
    end
  end

  # How many seconds it took for what a line asks for.
  def ask(bare, line) do
    Port.command(bare, [line, ?\n])

    receive do
      {^bare, {:data, {:eol, seconds}}} -> String.to_float(seconds)
    end
  end
end
