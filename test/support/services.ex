defmodule ReadStates.Services do
  @moduledoc """
  The servers of `script/services`, for tests. A test that needs one has its name as a tag, `:postgres`, `:cassandra`,
  `:cassandra_3`, `:cassandra_2dc` or `:cassandra_secure`, and is left out where it does not run.
  """

  @services %{
    postgres: "postgres",
    cassandra: "cassandra",
    cassandra_3: "cassandra-3",
    cassandra_2dc: "cassandra-2dc",
    cassandra_secure: "cassandra-secure"
  }

  @doc "The tags of servers that are not to be used or do not run; says so of each."
  def left_out do
    without = String.split(System.get_env("READ_STATES_WITHOUT", ""), [",", " "], trim: true)

    for {tag, service} <- Enum.sort(@services), why = why_not(service, without) do
      IO.puts(:stderr, "#{service} #{why}: tests tagged #{inspect(tag)} are left out")
      tag
    end
  end

  defp why_not(service, without) do
    cond do
      service in without -> "is named in READ_STATES_WITHOUT"
      not running?(service) -> "does not run (script/services start #{service})"
      true -> nil
    end
  end

  # Looked at without the script, which would take a while each time.
  defp running?(service) do
    Enum.all?(nodes(service), fn node ->
      with {:ok, pid} <- pid(service, node),
           do: File.exists?("/proc/#{pid}"),
           else: (_none -> false)
    end)
  end

  @doc "The id of the process of a service that runs and has one node."
  def pid(service) do
    {:ok, pid} = pid(service, "")
    pid
  end

  defp pid(service, node) do
    with {:ok, pid} <- File.read(Path.join([folder(service), node, "pid"])),
         do: {:ok, String.trim(pid)}
  end

  defp nodes("cassandra-3"), do: ["1", "2", "3"]
  defp nodes("cassandra-2dc"), do: ["1", "2"]
  defp nodes(_one), do: [""]

  @doc ~S'What is in the file `endpoints` of a service, for example `%{"url" => url}`.'
  def endpoints(service) do
    for line <- File.stream!(Path.join(folder(service), "endpoints")), into: %{} do
      [name, value] = line |> String.trim() |> String.split("=", parts: 2)
      {name, value}
    end
  end

  @doc ~S'Runs `script/services`, for example with `["kill", "cassandra-3/2"]`; returns what it says.'
  def run(args) do
    {said, status} = System.cmd(Path.expand("script/services"), args, stderr_to_stdout: true)
    if status == 0, do: said, else: raise("script/services #{Enum.join(args, " ")}:\n#{said}")
  end

  @doc "Calls `fun` while a server is paused: it keeps its connections, and answers nobody."
  def paused(service, fun) do
    # Also if the test is killed.
    ExUnit.Callbacks.on_exit(fn -> run(["cont", service]) end)
    run(["pause", service])
    fun.()
  after
    run(["cont", service])
  end

  defp folder(service) do
    Path.join(System.get_env("READ_STATES_SERVICES", "target/services"), service)
  end
end
