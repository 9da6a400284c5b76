defmodule ReadStates.Options do
  @moduledoc false
  # The options of `ReadStates.start_link/1`, validated.

  alias ReadStates.{Argument, Journal, Secret}

  @defaults [
    name: ReadStates,
    store: {ReadStates.Store.Local, path: "data/read_states"},
    capacity: 5_000_000,
    memory: 512 * 1024 * 1024,
    dirty_memory: nil,
    counters: [:mention_count],
    journal: nil,
    eviction: :clock,
    commit_after: 30_000,
    load_timeout: 5_000,
    drain_timeout: 30_000
  ]

  @bounds [:capacity, :memory, :dirty_memory]
  @least %{capacity: 1, memory: 4 * 1024 * 1024, dirty_memory: 1024 * 1024}
  @max_timeout 24 * 60 * 60 * 1_000
  # The names of an instance's processes begin with its own, and an atom has at most 255 characters.
  @longest_name 200

  defstruct Keyword.keys(@defaults)

  def new!(opts) do
    # Not shown: the store's own may be anywhere in it.
    unless Keyword.keyword?(opts), do: raise(ArgumentError, "opts must be a keyword list")
    Argument.options!(opts, Keyword.keys(@defaults))
    options = struct!(__MODULE__, Keyword.merge(@defaults, unseal(opts)))
    check!(:memory, options.memory)
    dirty_memory = Keyword.get(opts, :dirty_memory, div(options.memory, 4))
    options = %{options | dirty_memory: dirty_memory}
    Enum.each(Map.from_struct(options), fn {name, value} -> check!(name, value) end)
    check_dirty!(options.dirty_memory, options.memory)
    store = normal(options.store)
    journal = Journal.options!(options.journal, store)
    {module, store_opts} = store
    %{options | store: {module, Secret.seal(store_opts)}, journal: journal}
  end

  # The options as they go into a child specification, which supervisors show.
  def seal(opts) do
    Enum.map(opts, fn
      {:store, store} when not is_function(store) -> {:store, Secret.seal(store)}
      option -> option
    end)
  end

  defp unseal(opts) do
    Enum.map(opts, fn
      {:store, store} when is_function(store, 0) -> {:store, Secret.unseal(store)}
      option -> option
    end)
  end

  # The store's module and its options.
  def store(%__MODULE__{store: {module, sealed}}), do: {module, Secret.unseal(sealed)}

  # The options that can change while the instance runs.
  def bounds(options), do: Map.take(options, @bounds)

  # The bounds `ReadStates.resize/2` takes, checked against those that stay.
  def bounds!(opts, stats) do
    Argument.options!(opts, @bounds)
    Enum.each(opts, fn {name, value} -> check!(name, value) end)
    memory = Keyword.get(opts, :memory, stats.max_memory)
    check_dirty!(Keyword.get(opts, :dirty_memory, stats.max_dirty_memory), memory)
    Map.new(opts)
  end

  defp check!(:name, name) do
    unless is_atom(name) and name not in [nil, true, false, :undefined] and
             String.length(Atom.to_string(name)) <= @longest_name do
      Argument.invalid!(
        :name,
        name,
        "an atom of at most #{@longest_name} characters, and not nil, true, false or :undefined"
      )
    end
  end

  defp check!(:store, store) do
    module =
      case store do
        {module, opts} when is_atom(module) -> if Keyword.keyword?(opts), do: module
        module when is_atom(module) -> module
        _other -> nil
      end

    unless module && Code.ensure_loaded?(module) && function_exported?(module, :commit, 2) do
      raise ArgumentError,
            "store must be a module that implements ReadStates.Store, or {module, keyword list}" <>
              shown(store)
    end
  end

  defp check!(:counters, counters) do
    unless is_list(counters) and not List.improper?(counters) and
             length(counters) in 1..4 and Enum.all?(counters, &is_atom/1) and
             Enum.uniq(counters) == counters and nil not in counters do
      Argument.invalid!(:counters, counters, "a list of 1 to 4 different atoms")
    end
  end

  # See ReadStates.Journal.
  defp check!(:journal, _journal), do: :ok

  defp check!(:eviction, policy) do
    unless policy in [:clock, :lru] do
      Argument.invalid!(:eviction, policy, ":clock or :lru")
    end
  end

  defp check!(:commit_after, value), do: Argument.integer!(:commit_after, value, 0, @max_timeout)

  defp check!(name, value) when name in [:load_timeout, :drain_timeout] do
    Argument.integer!(name, value, 1, @max_timeout)
  end

  defp check!(name, value) when name in @bounds do
    Argument.integer!(name, value, @least[name], 0xFFFF_FFFF_FFFF)
  end

  defp check_dirty!(dirty_memory, memory) do
    if dirty_memory > memory do
      Argument.invalid!(:dirty_memory, dirty_memory, "at most memory, which is #{memory}")
    end
  end

  # Nothing else of it is, for there may be a password in it.
  defp shown(module) when is_atom(module), do: ", got: #{inspect(module)}"
  defp shown({module, _opts}) when is_atom(module), do: ", got: {#{inspect(module)}, ...}"
  defp shown(_other), do: ""

  defp normal({module, opts}), do: {module, opts}
  defp normal(module), do: {module, []}
end
