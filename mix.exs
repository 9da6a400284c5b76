Code.require_file("native/compile.exs", __DIR__)

defmodule ReadStates.MixProject do
  use Mix.Project

  @version "0.1.0"

  def project do
    [
      app: :read_states,
      version: @version,
      elixir: "~> 1.14",
      compilers: [:read_states_native | Mix.compilers()],
      elixirc_paths: elixirc_paths(Mix.env()),
      deps: deps(),
      name: "ReadStates",
      description: description(),
      package: package(),
      docs: docs()
    ]
  end

  def application do
    [extra_applications: [:logger, :crypto]]
  end

  defp elixirc_paths(:test), do: ["lib", "test/support"]
  defp elixirc_paths(_env), do: ["lib"]

  # Mix asks for Hex as soon as it sees a package of Hex, even an optional one, and the library needs none.
  # So they are listed only where Hex is installed, and not with READ_STATES_DEPS=none.
  defp deps do
    if Code.ensure_loaded?(Hex) and System.get_env("READ_STATES_DEPS") != "none" do
      [
        {:telemetry, "~> 1.0", optional: true},
        {:benchee, "~> 1.3", only: :dev, runtime: false},
        {:ex_doc, "~> 0.34", only: :dev, runtime: false}
      ]
    else
      []
    end
  end

  defp description do
    "Chat read states (last message read, unread mentions) for millions of users, kept in memory outside the BEAM heap by a Rust NIF and committed to a store"
  end

  defp package do
    [
      licenses: ["MIT"],
      links: %{},
      files:
        ~w(lib native/compile.exs native/{cassandra,directory,engine,header,journal,nif,postgres,remote,stores,sync}/{src,Cargo.toml} Cargo.toml Cargo.lock
        mix.exs .formatter.exs README.md CHANGELOG.md LICENSE guides)
    ]
  end

  defp docs do
    [
      main: "readme",
      extras:
        ["README.md"] ++ Enum.sort(Path.wildcard("guides/*.md")) ++ ["CHANGELOG.md", "LICENSE"],
      groups_for_extras: [Guides: ~r"^guides/"],
      groups_for_modules: [
        Stores: [~r/^ReadStates\.Store/, ReadStates.Batch, ReadStates.Row]
      ]
    ]
  end
end
