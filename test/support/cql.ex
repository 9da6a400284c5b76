defmodule ReadStates.CQL do
  @moduledoc """
  Talks to Cassandra without the library, for tests that make and look at what is on the server: statements in CQL as text, one
  after the other on one connection, at consistency ONE.
  """

  # An application of OTP that the tests start themselves.
  @compile {:no_warn_undefined, :ssl}

  @startup 1
  @query 7
  @auth_response 15

  @doc """
  Connects to `node`, a `host:port`. `opts`: `:user` and `:password`, and `:tls`, a list of `:certfile` and `:keyfile`, for a
  connection that shows this certificate and looks at none.
  """
  def connect!(node, opts \\ []) do
    [host, port] = String.split(node, ":")
    transport = if opts[:tls], do: :ssl, else: :gen_tcp
    # Each answer has its length in its header.
    tls = if opts[:tls], do: [verify: :verify_none] ++ opts[:tls], else: []
    options = [:binary, active: false] ++ tls
    {:ok, _apps} = Application.ensure_all_started(:ssl)
    {:ok, socket} = transport.connect(to_charlist(host), String.to_integer(port), options, 10_000)
    connection = {transport, socket}

    case call(
           connection,
           @startup,
           <<1::16, string("CQL_VERSION")::binary, string("3.0.0")::binary>>
         ) do
      # READY
      {2, _body} ->
        connection

      # AUTHENTICATE, answered with AUTH_SUCCESS.
      {3, _body} ->
        token = <<0, opts[:user]::binary, 0, opts[:password]::binary>>
        {16, _body} = call(connection, @auth_response, <<byte_size(token)::32, token::binary>>)
        connection
    end
  end

  @doc "Runs a statement. Returns the rows, each a list of its columns' bytes or nil."
  def run!(connection, statement) do
    body = <<byte_size(statement)::32, statement::binary, 1::16, 0>>

    case call(connection, @query, body) do
      {8, <<2::32, rows::binary>>} -> rows(rows)
      {8, _other_result} -> []
      {0, <<_code::32, text::binary>>} -> raise "#{statement}: #{inspect(text)}"
    end
  end

  @doc "The signed number in the bytes of a column."
  def integer(bytes) do
    size = byte_size(bytes)
    <<integer::signed-unit(8)-size(size)>> = bytes
    integer
  end

  @doc "Ends the connection."
  def close({transport, socket}), do: transport.close(socket)

  defp call({transport, socket}, opcode, body) do
    :ok = transport.send(socket, [<<4, 0, 0::16, opcode, byte_size(body)::32>>, body])
    {:ok, <<0x84, flags, 0::16, opcode, length::32>>} = transport.recv(socket, 9, 60_000)
    {:ok, body} = if length == 0, do: {:ok, ""}, else: transport.recv(socket, length, 60_000)
    {opcode, without_warnings(flags, body)}
  end

  defp without_warnings(8, <<count::16, rest::binary>>) do
    Enum.reduce(1..count, rest, fn _, rest -> rest |> take_string() |> elem(1) end)
  end

  defp without_warnings(0, body), do: body

  # Tables and columns are known to who asks.
  defp rows(<<flags::32, columns::32, rest::binary>>) do
    true = Bitwise.band(flags, 1) == 1
    {_keyspace, rest} = take_string(rest)
    {_table, rest} = take_string(rest)

    <<count::32, rest::binary>> =
      Enum.reduce(1..columns, rest, fn _, rest -> skip_column(rest) end)

    {rows, ""} = Enum.map_reduce(List.duplicate(columns, count), rest, &row/2)
    rows
  end

  defp row(columns, rest), do: Enum.map_reduce(1..columns, rest, fn _, rest -> value(rest) end)

  defp value(<<-1::signed-32, rest::binary>>), do: {nil, rest}
  defp value(<<size::32, value::binary-size(size), rest::binary>>), do: {value, rest}

  # Of a type without parameters.
  defp skip_column(rest) do
    {_name, <<type::16, rest::binary>>} = take_string(rest)
    true = type in 1..0x1F
    rest
  end

  defp take_string(<<size::16, string::binary-size(size), rest::binary>>), do: {string, rest}
  defp string(text), do: <<byte_size(text)::16, text::binary>>
end
