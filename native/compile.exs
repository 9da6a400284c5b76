defmodule Mix.Tasks.Compile.ReadStatesNative do
  @shortdoc "Builds the NIFs with cargo"

  @moduledoc false
  # Runs cargo, which decides what is stale, and puts the libraries into the application's priv folder.
  # Brought in by mix.exs, so that it is there before any module of the project is compiled.

  use Mix.Task.Compiler

  @core "read_states_nif"
  # The libraries that are built only for who asks for them, with
  #
  #     config :read_states, stores: [:cassandra]
  #
  # in the config/config.exs of the application, which Mix reads before it compiles what the application depends on.
  @stores [cassandra: "read_states_cassandra", postgres: "read_states_postgres"]

  @impl true
  def run(_args) do
    crates = [@core | Enum.map(stores(), &Keyword.fetch!(@stores, &1))]
    remove(Keyword.values(@stores) -- crates)
    build_all(crates, cargo(), :noop)
  end

  @impl true
  def clean do
    File.rm_rf!(folder())
    File.rm_rf!(own_target())
  end

  defp stores do
    stores = Application.get_env(:read_states, :stores, [])

    if is_list(stores) and Enum.all?(stores, &Keyword.has_key?(@stores, &1)) do
      Enum.uniq(stores)
    else
      Mix.raise(
        "config :read_states, stores: must be a list of #{inspect(Keyword.keys(@stores))}, got: #{inspect(stores)}"
      )
    end
  end

  # Each by itself, so that none is built otherwise because another one is.
  defp build_all([], _cargo, status), do: {status, []}

  defp build_all([crate | crates], cargo, status) do
    case build(crate, cargo) do
      {:ok, library} ->
        build_all(crates, cargo, if(install(crate, library) == :ok, do: :ok, else: status))

      :error ->
        message = "cargo could not build #{crate}" <> hint()
        Mix.shell().error(message)
        {:error, [diagnostic(message)]}
    end
  end

  # Rustup's folder comes second: a shell that was open during the installation does not have it in its path.
  defp cargo do
    System.find_executable("cargo") ||
      System.find_executable(Path.expand("bin/cargo", System.get_env("CARGO_HOME", "~/.cargo"))) ||
      Mix.raise("there is no cargo to build read_states with: #{advice()}")
  end

  # What cargo has to say goes to the terminal as it comes; its standard output is ours, one JSON object a line.
  # The first build takes a minute and shows its progress; later ones speak up only when there is something to say.
  defp build(crate, cargo) do
    args =
      ["build", "--release", "--locked", "--package", crate] ++
        ["--message-format", "json-render-diagnostics"] ++
        if(File.exists?(installed(crate)), do: ["--quiet"], else: [])

    case System.cmd(cargo, args, cd: root(), env: target()) do
      {messages, 0} -> {:ok, library(crate, messages)}
      {_messages, _status} -> :error
    end
  end

  # Only cargo knows where the library is: its own settings may name a target folder or another platform.
  defp library(crate, messages) do
    [_, path] = Regex.run(~r/"name":"#{crate}".*"filenames":\["([^"]+)"/, messages)
    path
  end

  # As a dependency, the sources may be read-only or be replaced by another version: build beside the beams.
  defp target do
    cond do
      System.get_env("CARGO_TARGET_DIR") -> []
      Mix.Project.deps_path() == Path.join(root(), "deps") -> []
      true -> [{"CARGO_TARGET_DIR", own_target()}]
    end
  end

  defp own_target, do: Path.join(Mix.Project.app_path(), "native")

  # A virtual machine may have the old file mapped: it is replaced, never written over.
  defp install(crate, library) do
    bytes = File.read!(library)
    installed = installed(crate)

    if File.read(installed) == {:ok, bytes} do
      :noop
    else
      File.mkdir_p!(folder())
      File.write!(installed <> ".new", bytes)
      File.rename!(installed <> ".new", installed)
      :ok
    end
  end

  defp remove(crates), do: Enum.each(crates, &File.rm(installed(&1)))

  # `:erlang.load_nif/2` wants .so on every Unix, macOS included.
  defp installed(crate), do: Path.join(folder(), crate <> ".so")

  defp folder, do: Path.join(Mix.Project.app_path(), "priv/native")

  defp hint do
    with {"cargo " <> version, 0} <- System.cmd(cargo(), ["--version"], cd: root()),
         {:ok, version} <- version |> String.split() |> hd() |> Version.parse(),
         true <- Version.compare(version, rust_version() <> ".0") == :lt do
      " with cargo #{version}: #{advice()}"
    else
      _ -> ""
    end
  end

  defp advice, do: "install Rust #{rust_version()} or newer (https://rustup.rs)"

  defp rust_version do
    [_, version] =
      Regex.run(~r/^rust-version = "(.+)"/m, File.read!(Path.join(root(), "Cargo.toml")))

    version
  end

  defp root, do: Path.expand("..", __DIR__)

  defp diagnostic(message) do
    %Mix.Task.Compiler.Diagnostic{
      file: Path.join(root(), "Cargo.toml"),
      severity: :error,
      message: message,
      position: nil,
      compiler_name: "cargo"
    }
  end
end
