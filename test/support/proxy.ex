defmodule ReadStates.Proxy do
  @moduledoc """
  Stands between a client and a server on the loopback interface, and can stop passing on what they say, on the connections that are
  there: they stay open and answer nothing.
  """

  @tcp [:binary, active: true, packet: :raw]

  @doc """
  Listens at an address of this machine for who wants to get to `port` of 127.0.0.1, and returns its own port: `own`, or any that
  is free.
  """
  def start(port, ip \\ {127, 0, 0, 1}, own \\ 0) do
    owner = self()
    # It ends with who started it, and with it all that it has.
    spawn_link(fn -> listen(owner, port, ip, own) end)

    receive do
      {:listens, own} -> own
    end
  end

  @doc "Passes nothing on any more on the connections of the proxy at `own` that are there."
  def hang(own) do
    for pid <- connections(own), do: send(pid, :hang)
    :ok
  end

  @doc "Passes nothing on any more on new connections from when a client says something with `text` in it."
  def hang_at(own, text) do
    send(name(own), {:hang_at, text})
    :ok
  end

  @doc "How many connections were made."
  def count(own), do: length(connections(own))

  @doc "Whether a client has said something since that was not passed on."
  def silenced?(own), do: Enum.any?(connections(own), &silenced_one?/1)

  defp silenced_one?(pid) do
    {:dictionary, dictionary} = Process.info(pid, :dictionary)
    dictionary[:silenced] == true
  end

  defp connections(own) do
    send(name(own), {:connections, self()})

    receive do
      {:connections, pids} -> pids
    end
  end

  defp name(own), do: :"#{__MODULE__}.#{own}"

  defp listen(owner, port, ip, own) do
    {:ok, listener} = :gen_tcp.listen(own, [:binary, active: false, ip: ip])
    {:ok, own} = :inet.port(listener)
    Process.register(self(), name(own))
    proxy = self()
    spawn_link(fn -> accept(listener, port, proxy) end)
    send(owner, {:listens, own})
    keep([], nil)
  end

  defp keep(pids, text) do
    receive do
      {:connection, pid} -> send(pid, {:begin, text}) && keep([pid | pids], text)
      {:connections, asker} -> send(asker, {:connections, pids}) && keep(pids, text)
      {:hang_at, text} -> keep(pids, text)
    end
  end

  defp accept(listener, port, proxy) do
    {:ok, client} = :gen_tcp.accept(listener)

    pid =
      spawn_link(fn ->
        text = receive do: ({:begin, text} -> text)
        {:ok, server} = :gen_tcp.connect({127, 0, 0, 1}, port, @tcp)
        :ok = :inet.setopts(client, active: true)
        pass(client, server, text)
      end)

    :ok = :gen_tcp.controlling_process(client, pid)
    send(proxy, {:connection, pid})
    accept(listener, port, proxy)
  end

  defp pass(client, server, text) do
    receive do
      {:tcp, ^client, data} -> said(data, server, text)
      {:tcp, ^server, data} -> :gen_tcp.send(client, data)
      {:tcp_closed, ^client} -> :gen_tcp.close(server)
      {:tcp_closed, ^server} -> :gen_tcp.close(client)
      :hang -> hang_on(client)
    end

    pass(client, server, text)
  end

  defp said(data, server, text) do
    if text && String.contains?(data, text), do: silence(), else: :gen_tcp.send(server, data)
  end

  defp hang_on(client) do
    receive do: ({:tcp, ^client, _data} -> silence())
  end

  defp silence do
    Process.put(:silenced, true)
    Process.sleep(:infinity)
  end
end
