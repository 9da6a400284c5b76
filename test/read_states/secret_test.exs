defmodule ReadStates.SecretTest do
  use ReadStates.InstanceCase, async: true

  # A store has a password in its options and keeps it in what it returns. Whatever is logged, returned or inspected,
  # the password is not in it.

  alias ReadStates.{Instance, Options, Secret}

  defmodule Store do
    @behaviour ReadStates.Store

    alias ReadStates.Store.Memory

    @impl true
    def open(opts, context), do: fail(:open, opts) || open_memory(opts, context)

    defp open_memory(opts, context) do
      {:ok, memory, floor} = Memory.open([data: opts[:data]], context)
      {:ok, %{opts: opts, memory: memory}, floor}
    end

    @impl true
    def load(store, users, cursor),
      do: fail(:load, store.opts) || Memory.load(store.memory, users, cursor)

    @impl true
    def commit(store, batch), do: fail(:commit, store.opts) || Memory.commit(store.memory, batch)

    @impl true
    def scan(store, cursor), do: Memory.scan(store.memory, cursor)

    @impl true
    def close(store), do: fail(:close, store.opts) || Memory.close(store.memory)

    # What the test wants of this call: a function of the options.
    defp fail(call, opts) do
      if fun = Agent.get(opts[:faults], & &1, :infinity)[call], do: fun.(opts)
    end
  end

  @behaved [
    returned: quote(do: fn opts -> {:error, {:refused, opts}} end),
    "no answer": quote(do: fn opts -> {:refused, opts} end),
    "raised, in the message": quote(do: fn opts -> raise "refused: #{inspect(opts)}" end),
    "raised, in the exception": quote(do: &Keyword.fetch!(&1, :host)),
    "raised, in the arguments": quote(do: &String.upcase/1),
    "raised as an argument":
      quote(do: &raise(ArgumentError, "url must be free, got: #{&1[:url]}")),
    exited: quote(do: &exit({:noproc, {GenServer, :call, [:pool, {:connect, &1}]}})),
    thrown: quote(do: &throw/1),
    "died of a process it is linked to": quote(do: &__MODULE__.link_to_one_that_dies/1)
  ]

  def link_to_one_that_dies(opts) do
    spawn_link(fn -> exit({:shutdown, opts}) end)
    Process.sleep(:infinity)
  end

  setup %{name: name} do
    Process.flag(:trap_exit, true)
    # Also inspected and in an address it is spelled in other ways.
    # Found nowhere else.
    number = System.unique_integer([:positive]) + 700_700_700_000_000
    password = "pass\"#{number}\" &word"
    address = "address#{number}"
    faults = start_supervised!({Agent, fn -> %{} end})

    opts = [
      password: password,
      url: "ecto://me:#{address}@host/base",
      ssl: [keys: %{"password" => ~c"charlist#{number}"}],
      nodes: ["cql://me:node#{number}%40@host"],
      data: Memory.new(),
      faults: faults
    ]

    handler = String.to_atom("#{number}")
    :ok = :logger.add_handler(handler, __MODULE__, %{config: %{test: self(), number: number}})
    on_exit(fn -> :logger.remove_handler(handler) end)
    opts = [name: name, store: {Store, opts}, load_timeout: 60_000]
    %{opts: opts, faults: faults, number: number}
  end

  # Of the logger: what the system says itself comes here as it is, reports of progress included.
  def log(event, %{config: %{test: test, number: number}}) do
    text = text(Map.drop(event, [:meta]))
    if text =~ "#{number}", do: send(test, {:shown, text}), else: send(test, {:logged, text})
  end

  # As Elixir shows it and as Erlang does.
  defp text(term) do
    :unicode.characters_to_binary([
      inspect(term, limit: :infinity, printable_limit: :infinity),
      :io_lib.format("~0tp", [term])
    ])
  end

  defp assert_hidden(term, number), do: refute(text(term) =~ "#{number}")

  defp set(faults, call, fun), do: Agent.update(faults, &Map.put(&1, call, fun))

  defp await_log(part) do
    receive do
      {:logged, text} -> if text =~ part, do: :ok, else: await_log(part)
    after
      60_000 -> flunk("nothing with #{part} was logged")
    end
  end

  defp processes(name), do: [name | Instance.processes(name) -- journal(name)]

  defp journal(name),
    do: Enum.map([:syncer, :archivist, :recoverer], &apply(Instance, &1, [name]))

  test "whatever the option is called that has one" do
    names =
      ~w(password db_passwd PASSPHRASE pass pwd client_secret token credentials auth cookie
               api_key apikey api-key apiKey access_key accesskey AccessKeyId private_key privateKey url base_uri dsn)

    for name <- names, key <- [name, String.to_atom(name)] do
      options = Secret.seal(%{key => "hunter2"})
      assert {name, "no: [hidden]"} == {name, Secret.hide("no: hunter2", options)}
    end

    for name <- ~w(host keyspace username database port key) do
      assert {name, "no: plain"} ==
               {name, Secret.hide("no: plain", Secret.seal(%{name => "plain"}))}
    end
  end

  test "in what is inspected", %{name: name, opts: opts, number: number} do
    start_supervised!({ReadStates, opts})
    assert_hidden(ReadStates.child_spec(opts), number)
    assert_hidden(Options.new!(opts), number)
    assert_hidden(Instance.fetch!(name), number)
    assert_hidden(ReadStates.stats(name), number)

    for {child, _, _, _} <- Supervisor.which_children(name) do
      {:ok, spec} = :supervisor.get_childspec(name, child)
      assert_hidden(spec, number)
    end

    for process <- processes(name) do
      assert_hidden(:sys.get_status(process), number)
      assert_hidden(:sys.get_state(process), number)
    end

    # The store has it.
    assert {Store, %{opts: [{:password, _} | _]}} = Instance.store(Instance.fetch!(name))
    refute_received {:shown, _}
  end

  test "when processes crash and are killed", %{name: name, opts: opts} do
    start_supervised!({ReadStates, opts})
    :ok = ReadStates.ack(name, 1, 10, 100)

    for process <- processes(name) -- [name, Instance.tasks(name)] do
      pid = eventually(fn -> Process.whereis(process) end)
      # It reports its state.
      GenServer.cast(pid, :unknown)
      # Inspected, its name may be quoted once more.
      await_log(Atom.to_string(process))
      eventually(fn -> Process.whereis(process) not in [nil, pid] end)
    end

    for process <- processes(name) do
      pid = eventually(fn -> Process.whereis(process) end)
      Process.exit(pid, :kill)
      eventually(fn -> Process.whereis(process) not in [nil, pid] end)
    end

    assert eventually(fn -> ReadStates.commit(name) == :ok end)
    refute_received {:shown, _}
  end

  for {how, fault} <- @behaved do
    test "when a load and a commit have failed (#{how})", context do
      %{name: name, opts: opts, faults: faults, number: number} = context
      start_supervised!({ReadStates, opts})
      :ok = ReadStates.load(name, [1])
      fault = unquote(fault)
      set(faults, :load, fault)
      error = ReadStates.get(name, 2, 10)
      assert error == {:error, :store_unavailable}
      await_log("could not load")
      set(faults, :commit, fault)
      :ok = ReadStates.ack(name, 1, 10, 100)
      assert ReadStates.commit(name) == {:error, :store_unavailable}
      await_log("could not commit")
      Agent.update(faults, fn _faults -> %{} end)
      assert eventually(fn -> ReadStates.commit(name) == :ok end)
      assert_hidden(:sys.get_status(Instance.committer(name, 0)), number)
      refute_received {:shown, _}
    end

    # Who is linked to who opens dies with it.
    unless how == :"died of a process it is linked to" do
      test "when it could not start (#{how})", context do
        %{name: name, opts: opts, faults: faults, number: number} = context

        set(faults, :open, unquote(fault))

        start = fn ->
          try do
            ReadStates.start_link(opts)
          rescue
            error in ArgumentError -> {:error, error}
          end
        end

        assert {:error, reason} = start.()
        assert_hidden(reason, number)
        assert {:error, reason} = start_supervised({ReadStates, opts})
        assert_hidden(reason, number)

        # From Elixir 1.15 on nobody is shown the reports of supervisors, unless Logger is told to.
        if Version.match?(System.version(), "< 1.15.0"), do: await_log("ReadStates.Keeper")
        assert_raise ArgumentError, fn -> ReadStates.stats(name) end
        refute_received {:shown, _}
      end
    end
  end

  test "when it could not be closed, and it is closed all the same", context do
    %{name: name, opts: opts, faults: faults} = context
    start_supervised!({ReadStates, opts})
    :ok = ReadStates.ack(name, 1, 10, 100)
    set(faults, :close, &raise("refused: #{inspect(&1)}"))
    stop_supervised!({ReadStates, name})
    await_log("could not close its store")
    assert_raise ArgumentError, fn -> ReadStates.stats(name) end
    set(faults, :close, nil)
    start_supervised!({ReadStates, opts})
    assert {:ok, %{last_message_id: 100}} = ReadStates.get(name, 1, 10)
    refute_received {:shown, _}
  end

  test "when the options are wrong", %{
    opts: [_name, {:store, {_, store_opts}} | _],
    number: number
  } do
    for opts <- [
          [store: {Enum, store_opts}],
          [store: {Memory, Map.new(store_opts)}],
          [store: {Memory, store_opts, 1}],
          [store: store_opts],
          [store: store_opts[:url]],
          [store: {Memory, store_opts}],
          Map.new(store_opts),
          [{:store, {Memory, store_opts}} | :improper],
          [store: Memory] ++ store_opts,
          store_opts[:url]
        ],
        opts = if(Keyword.keyword?(opts), do: [name: :never] ++ opts, else: opts) do
      error = assert_raise ArgumentError, fn -> ReadStates.start_link(opts) end
      assert_hidden(error, number)
    end

    refute_received {:shown, _}
  end

  test "but everything else of an error is as it was" do
    options = Secret.seal(user: "me", password: "hidden", port: 1, token: nil, secret: "")

    reason =
      {:refused, ["me", %{"hidden" => ~c"so hidden"} | "xhiddenx"],
       %ArgumentError{message: "hidden"}}

    assert Secret.hide(reason, options) ==
             {:refused, ["me", %{"[hidden]" => ~c"so [hidden]"} | "x[hidden]x"],
              %ArgumentError{message: "[hidden]"}}

    assert Secret.hide(<<1::3>>, options) == <<1::3>>

    for name <- [:db_password, :passwd, "Api_Key", :tls_private_key, :auth, :credentials, :cookie] do
      assert Secret.hide({:refused, "me hidden"}, Secret.seal([{name, ["hidden"]}, user: "me"])) ==
               {:refused, "me [hidden]"}
    end

    for name <- [:keyspace, :host, :username, :pool] do
      assert Secret.hide("shown", Secret.seal([{name, "shown"}])) == "shown"
    end

    assert Secret.hide(["hidden" | 1], Secret.seal([])) == ["hidden" | 1]
  end
end
