defmodule Mix.Tasks.Compile.ReadStatesNative do
  @shortdoc "Builds the NIF with cargo"

  @moduledoc false
  # Runs cargo, which decides what is stale, and puts the library into the application's priv folder.
  # Brought in by mix.exs, so that it is there before any module of the project is compiled.

  use Mix.Task.Compiler

  @crate "read_states_nif"

  @impl true
  def run(_args) do
    case build(cargo()) do
      {:ok, library} ->
        {install(library), []}

      :error ->
        message = "cargo could not build #{@crate}" <> hint()
        Mix.shell().error(message)
        {:error, [diagnostic(message)]}
    end
  end

  @impl true
  def clean do
    File.rm_rf!(Path.dirname(installed()))
    File.rm_rf!(own_target())
  end

  # Rustup's folder comes second: a shell that was open during the installation does not have it in its path.
  defp cargo do
    System.find_executable("cargo") ||
      System.find_executable(Path.expand("bin/cargo", System.get_env("CARGO_HOME", "~/.cargo"))) ||
      Mix.raise("there is no cargo to build read_states with: #{advice()}")
  end

  # What cargo has to say goes to the terminal as it comes; its standard output is ours, one JSON object a line.
  # The first build takes a minute and shows its progress; later ones speak up only when there is something to say.
  defp build(cargo) do
    args =
      ["build", "--release", "--locked", "--package", @crate] ++
        ["--message-format", "json-render-diagnostics"] ++
        if(File.exists?(installed()), do: ["--quiet"], else: [])

    case System.cmd(cargo, args, cd: root(), env: target()) do
      {messages, 0} -> {:ok, library(messages)}
      {_messages, _status} -> :error
    end
  end

  # Only cargo knows where the library is: its own settings may name a target folder or another platform.
  defp library(messages) do
    [_, path] = Regex.run(~r/"name":"#{@crate}".*"filenames":\["([^"]+)"/, messages)
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
  defp install(library) do
    bytes = File.read!(library)

    if File.read(installed()) == {:ok, bytes} do
      :noop
    else
      File.mkdir_p!(Path.dirname(installed()))
      File.write!(installed() <> ".new", bytes)
      File.rename!(installed() <> ".new", installed())
      :ok
    end
  end

  # `:erlang.load_nif/2` wants .so on every Unix, macOS included.
  defp installed, do: Path.join(Mix.Project.app_path(), "priv/native/#{@crate}.so")

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
