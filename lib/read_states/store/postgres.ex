defmodule ReadStates.Store.Postgres do
  @moduledoc """
  Keeps read states in PostgreSQL.

  It is written in Rust, on the [`tokio-postgres`](https://docs.rs/tokio-postgres) driver, in a library of its own, which is built only
  for an application that asks for it in its `config/config.exs`:

      config :read_states, stores: [:postgres]

  Then

      {ReadStates,
       name: MyApp.ReadStates,
       store: {ReadStates.Store.Postgres, url: System.fetch_env!("DATABASE_URL")},
       journal: [path: "data/journal"]}

  Without `:journal` what is not committed is lost with the VM.

  The tables are made by `mix read_states.postgres.setup`, which also prints the SQL for a migration, or by `set_up/1` in a release. The guide [PostgreSQL](postgres.md)
  has them, and what two instances may do at the same time. It also shows the same store in
  Elixir, on the application's own Ecto repo.

  ## Options

  - `:url` (string, by default the environment variable `DATABASE_URL`) - `postgres://user:password@host:port/database`; `postgresql://` and
    `ecto://` mean the same. Special characters in a name or password are percent-encoded. The only parameter is `sslmode`, with `disable`,
    `verify-ca` and `verify-full`, as the option `:tls`.
  - `:password` (string) - instead of the one in the URL.
  - `:schema` (string, default `"public"`) - where the tables are: at most 42 small letters, digits and underscores.
  - `:table` (string, such a one, default `"read_states"`) - the table of the read states; beside it are two with `_deletes` and `_notes` appended. Two
    instances with different counters need a table each.
  - `:pool` (1 to 64, default 8) - connections. An instance makes up to 8 calls at a time, so more than 8 help only if others use the store too.
  - `:tls` (`true` or a keyword list) - an encrypted connection to a server that shows a certificate:
    - `:cacertfile` - a PEM file of certificates, one of which has signed the server's. By default those that the system trusts.
    - `:certfile`, `:keyfile` - the application's own certificate and its key, in PEM files, for a server that asks for one.
    - `:verify_host` (default `true`) - whether the server's certificate must name its host.
  - `:timeout` (milliseconds, at most 50,000, default 15,000) - how long a statement may take, and how long a connection may take to be made.

  Connections go to the server itself, or through a pool that keeps the session: statements are prepared.

  ## Errors at start

  `c:ReadStates.Store.open/2`, and so the start of the instance, returns `{:error, {reason, text}}`, where the text is for people and names
  the option, and the reason is one of

  | reason | |
  |---|---|
  | `:not_built` | the library is not there; the text says how to get it |
  | `:not_loaded` | the library is there and cannot be loaded, for example on another system than the one it was built for |
  | `:unreachable` | nobody answers at the host and port of the URL |
  | `:read_only` | the server takes no writes: it is a standby, or has `default_transaction_read_only`. Read states loaded from a standby may be older than the last commit |
  | `:access_denied` | wrong user or password, or none where it is asked for, or a user who may not use the tables |
  | `:tls` | a certificate does not fit, or a file of one cannot be read, or the server does not speak TLS |
  | `:missing` | there is no such database or table |
  | `:not_ours` | the table is another one, or of a version of the library that this one cannot read |
  | `:counters_changed` | the instance's counters do not start with those the table was written with, in their order; new ones may only be appended |
  | `:invalid_option` | an option that the driver does not take |
  | `:server`, `:timeout` | the server answers with an error, or too late |
  | `:panic` | a defect of the store |

  Later calls return these in the same way, and `{:error, :busy}` while 64 calls are under way, and `{:error, :closed}` after
  `c:ReadStates.Store.close/1`.
  """

  @behaviour ReadStates.Store

  alias ReadStates.Argument
  alias ReadStates.Store.{Remote, TLS}

  defmodule Native do
    @moduledoc false
    # native/postgres.
    use ReadStates.Store.Remote, store: :postgres, library: "read_states_postgres"
  end

  @defaults [
    url: nil,
    password: nil,
    schema: "public",
    table: "read_states",
    pool: 8,
    tls: nil,
    timeout: 15_000
  ]

  @url "postgres://user:password@host:port/database"

  @impl true
  def open(opts, context), do: Remote.open(Native, fields!(opts), context)

  @impl true
  def load(store, users, cursor), do: Remote.load(Native, store, users, cursor)

  @impl true
  def commit(store, batch), do: Remote.commit(Native, store, batch)

  @impl true
  def scan(store, cursor), do: Remote.scan(Native, store, cursor)

  @impl true
  def shared?(_store), do: true

  @impl true
  def close(store), do: Remote.close(Native, store)

  # The statements are the same whatever the server.
  @doc false
  def schema(opts) do
    Remote.schema(
      Native,
      fields!(Keyword.put_new(opts, :url, "postgres://user@localhost/database"))
    )
  end

  @doc """
  Makes what a store needs and is not there yet: the tables of the read states, of the deletes that are remembered, and of the notes.

  `mix read_states.postgres.setup` does the same. This is for a release, where there is no Mix; nothing has to be started for it. With a module
  of the application

      defmodule MyApp.Release do
        def set_up_read_states do
          :ok = ReadStates.Store.Postgres.set_up(url: System.fetch_env!("DATABASE_URL"))
        end
      end

  it is

      bin/my_app eval "MyApp.Release.set_up_read_states()"

  at each deployment. `opts` (keyword list) are the options of the store.

  Returns `:ok`, or `{:error, {reason, text}}` as the start of an instance does, see [above](#module-errors-at-start): `:timeout` after
  55 seconds at most. Raises `ArgumentError` for an option that is unknown or of a wrong value, or without a URL.
  """
  @spec set_up(keyword) :: :ok | {:error, {atom, String.t()}}
  def set_up(opts), do: Remote.set_up(Native, fields!(opts))

  defp fields!(opts) do
    opts = options!(opts)
    server = url!(opts[:url] || System.get_env("DATABASE_URL"))
    {sslmode, server} = Map.pop!(server, :sslmode)

    if sslmode && opts[:tls] != nil do
      raise ArgumentError, "tls and the sslmode of url must not be given together"
    end

    opts
    |> Keyword.take([:schema, :table, :pool, :timeout])
    |> Map.new()
    |> Map.merge(server)
    |> Map.put(:password, opts[:password] || server.password)
    |> Map.put(:tls, TLS.fields(opts[:tls] || sslmode))
  end

  defp options!(opts) do
    Argument.options!(opts, Keyword.keys(@defaults))
    opts = Keyword.merge(@defaults, opts)
    Enum.each(opts, fn {name, value} -> check!(name, value) end)
    opts
  end

  # The values of these are not shown.
  defp check!(name, value) when name in [:url, :password] do
    unless value == nil or Argument.text?(value) do
      raise ArgumentError, "#{name} must be a string in UTF-8"
    end
  end

  defp check!(name, value) when name in [:schema, :table] do
    # The tables of deletes and notes have longer names.
    unless is_binary(value) and value =~ ~r/\A[a-z_][a-z0-9_]{0,41}\z/ do
      Argument.invalid!(name, value, "a string of at most 42 of a-z, 0-9 and _, no digit first")
    end
  end

  defp check!(:pool, value), do: Argument.integer!(:pool, value, 1, 64)
  defp check!(:timeout, value), do: Argument.integer!(:timeout, value, 1, 50_000)
  defp check!(:tls, value), do: TLS.check!(value)

  defp url!(nil) do
    raise ArgumentError, "url must be given, or DATABASE_URL in the environment: #{@url}"
  end

  defp url!(url) do
    with {:ok, %URI{scheme: scheme, host: host, path: "/" <> database} = uri} <- URI.new(url),
         true <- scheme in ["postgres", "postgresql", "ecto"],
         true <- host not in [nil, ""] and database != "" and not String.contains?(database, "/") do
      {user, password} = userinfo!(uri.userinfo)

      port = uri.port || 5432
      unless port in 1..65_535, do: wrong_url!("must have a port from 1 to 65535")

      %{
        host: host,
        port: port,
        database: decode!(database),
        user: user,
        password: password,
        sslmode: sslmode!(uri.query)
      }
    else
      _other -> wrong_url!("must be #{@url}")
    end
  end

  defp userinfo!(nil), do: wrong_url!("has no user: #{@url}")

  defp userinfo!(userinfo) do
    case String.split(userinfo, ":", parts: 2) do
      ["" | _] -> wrong_url!("has no user: #{@url}")
      [user] -> {decode!(user), nil}
      [user, password] -> {decode!(user), decode!(password)}
    end
  end

  defp decode!(text) do
    decoded = URI.decode(text)
    if String.valid?(decoded), do: decoded, else: raise(ArgumentError)
  rescue
    # It shows what it could not decode.
    ArgumentError -> wrong_url!("must have names and a password that are percent-encoded UTF-8")
  end

  defp sslmode!(nil), do: nil

  defp sslmode!(query) do
    case Enum.to_list(URI.query_decoder(query)) do
      [] -> nil
      [{"sslmode", "disable"}] -> false
      [{"sslmode", "verify-ca"}] -> [verify_host: false]
      [{"sslmode", "verify-full"}] -> true
      [{"sslmode", _}] -> wrong_url!("must have sslmode=disable, verify-ca or verify-full")
      _other -> wrong_url!("must have no parameter but sslmode")
    end
  end

  # It is not shown, for there may be a password in it.
  @spec wrong_url!(String.t()) :: no_return
  defp wrong_url!(why), do: raise(ArgumentError, "url #{why}")
end
