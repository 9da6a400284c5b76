# A read states service on this library, with the protocol and the capacity of the one in go_service/.
#
#     mix run bench/open_loop/service.exs --capacity N [--port P]
#
# It writes the port it listens on to its standard output. The Local store is in a directory below the
# system's temporary one (TMPDIR), removed when the service is told to stop. So it does more than the
# other service: a commit is on disk when it is done, and a user who is not in memory is read from there.

defmodule ReadStates.OpenLoop.Service do
  # A request is op u8, user u64, channel u64, message u64, number u32, and its answer number u32,
  # last message u64, mention count u32, all big-endian.
  @ack 0
  @increment 1
  @get 2

  @retry_after 10

  def run(args) do
    {opts, []} = OptionParser.parse!(args, strict: [port: :integer, capacity: :integer])

    capacity = opts[:capacity] || 5_000_000
    directory = Path.join(System.tmp_dir!(), "read_states_service_#{System.pid()}")

    # So much that only the capacity bounds it, even with every state dirty, as in the other service.
    memory = max(200 * capacity, 512 * 1024 * 1024)

    {:ok, instance} =
      ReadStates.start_link(
        name: __MODULE__,
        store: {ReadStates.Store.Local, path: directory},
        capacity: capacity,
        memory: memory,
        dirty_memory: memory
      )

    {:ok, _id} =
      System.trap_signal(:sigterm, fn ->
        Supervisor.stop(instance)
        File.rm_rf!(directory)
        :ok
      end)

    options = [:binary, ip: {127, 0, 0, 1}, active: false, nodelay: true, buffer: 65_536]
    {:ok, listener} = :gen_tcp.listen(opts[:port] || 0, options)
    {:ok, port} = :inet.port(listener)
    IO.puts(port)
    spawn_link(fn -> accept(listener) end)
    Process.sleep(:infinity)
  end

  # Who accepts a connection owns it, and leaves the next one to another.
  defp accept(listener) do
    {:ok, socket} = :gen_tcp.accept(listener)
    spawn_link(fn -> accept(listener) end)
    serve(socket, "")
  end

  defp serve(socket, rest) do
    case :gen_tcp.recv(socket, 0) do
      {:ok, received} -> serve(socket, carry_out(rest <> received, socket, [], []))
      {:error, :closed} -> :ok
    end
  end

  # Answers what has been received with one send, and returns what is left of it.
  defp carry_out(
         <<@ack, user::64, channel::64, message::64, number::32, rest::binary>>,
         socket,
         answers,
         gets
       ) do
    write(fn -> ReadStates.ack(__MODULE__, user, channel, message) end)
    carry_out(rest, socket, [answers | <<number::32, 0::96>>], gets)
  end

  defp carry_out(
         <<@increment, user::64, channel::64, message::64, number::32, rest::binary>>,
         socket,
         answers,
         gets
       ) do
    write(fn -> ReadStates.increment(__MODULE__, user, channel, message) end)
    carry_out(rest, socket, [answers | <<number::32, 0::96>>], gets)
  end

  defp carry_out(
         <<@get, user::64, channel::64, _message::64, number::32, rest::binary>>,
         socket,
         answers,
         gets
       ) do
    carry_out(rest, socket, answers, [{user, channel, number} | gets])
  end

  defp carry_out(rest, socket, answers, gets) do
    # A read may wait for a load, and what came in after it need not.
    if gets != [], do: spawn_link(fn -> send_answers(socket, Enum.map(gets, &get/1)) end)
    if answers != [], do: send_answers(socket, answers)
    rest
  end

  defp send_answers(socket, answers) do
    case :gen_tcp.send(socket, answers) do
      :ok -> :ok
      {:error, :closed} -> :ok
    end
  end

  defp get({user, channel, number}) do
    {:ok, state} = ReadStates.get(__MODULE__, user, channel)
    <<number::32, state.last_message_id::64, state.counters.mention_count::32>>
  end

  # Whoever sends more than the store can take is held up, here and then by TCP.
  defp write(operation) do
    with {:error, :overloaded} <- operation.() do
      Process.sleep(@retry_after)
      write(operation)
    end
  end
end

ReadStates.OpenLoop.Service.run(System.argv())
