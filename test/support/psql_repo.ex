defmodule ReadStates.PsqlRepo do
  @moduledoc """
  What a store in Elixir calls of an Ecto repo, `query/2`, `query!/2` and `transaction/1`, with psql in the place of Postgrex: Ecto cannot be had
  without Hex. The SQL runs on the real server. There is one connection, so one transaction at a time.
  """

  use GenServer

  @end_of_answer "-- end of the answer --"

  @doc "Starts it for the tables of this schema."
  def start_link({url, schema}) do
    GenServer.start_link(__MODULE__, {url, schema}, name: __MODULE__)
  end

  @doc "As `Ecto.Repo`: rows of integers and nil."
  def query(sql, params) do
    if Process.get(__MODULE__),
      do: GenServer.call(__MODULE__, {:query, sql, params}, :infinity),
      else: alone(fn -> GenServer.call(__MODULE__, {:query, sql, params}, :infinity) end)
  end

  def query!(sql, params) do
    case query(sql, params) do
      {:ok, result} -> result
      {:error, error} -> raise error
    end
  end

  def transaction(fun) do
    alone(fn ->
      Process.put(__MODULE__, true)
      query!("BEGIN", [])

      try do
        result = fun.()
        query!("COMMIT", [])
        {:ok, result}
      rescue
        error ->
          query!("ROLLBACK", [])
          reraise error, __STACKTRACE__
      after
        Process.delete(__MODULE__)
      end
    end)
  end

  defp alone(fun), do: :global.trans({__MODULE__, self()}, fun, [node()])

  @impl true
  def init({url, schema}) do
    args = ["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--field-separator", ","]

    psql =
      Port.open({:spawn_executable, System.find_executable("psql")}, [
        :binary,
        :exit_status,
        :stderr_to_stdout,
        line: 1_000_000,
        args: args ++ [url]
      ])

    Port.command(psql, "\\pset null null\nSET search_path = #{schema};\n")
    {:ok, psql}
  end

  @impl true
  def handle_call({:query, sql, params}, _from, psql) do
    Port.command(psql, [fill_in(sql, params), ";\n\\echo '#{@end_of_answer}'\n"])
    {:reply, answer(psql, []), psql}
  end

  # From the last, for $1 is the beginning of $10.
  defp fill_in(sql, params) do
    params
    |> Enum.with_index(1)
    |> Enum.reverse()
    |> Enum.reduce(sql, fn {param, n}, sql -> String.replace(sql, "$#{n}", literal(param)) end)
  end

  # In brackets, and with the type: what is negative would bind less than a cast.
  defp literal(number) when is_integer(number), do: "('#{number}'::bigint)"
  defp literal(list) when is_list(list), do: "'{#{Enum.join(list, ",")}}'"

  defp answer(psql, lines) do
    receive do
      {^psql, {:data, {:eol, @end_of_answer}}} -> result(Enum.reverse(lines))
      {^psql, {:data, {:eol, line}}} -> answer(psql, [line | lines])
    after
      60_000 -> raise "psql says nothing more: #{inspect(lines)}"
    end
  end

  defp result(lines) do
    if error = Enum.find(lines, &(&1 =~ "ERROR:")) do
      {:error, RuntimeError.exception(error)}
    else
      {:ok, %{rows: for(line <- lines, do: line |> String.split(",") |> Enum.map(&value/1))}}
    end
  end

  defp value("null"), do: nil
  defp value(number), do: String.to_integer(number)
end
