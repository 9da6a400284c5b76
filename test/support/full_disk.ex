defmodule ReadStates.FullDisk do
  @moduledoc """
  A file system of a few megabytes, in memory, and calls that fill it. Tests that need one have the tag `:full_disk`, and are
  left out where none can be mounted.

  The n-th call is always the same, so that what was acknowledged follows from a number, also in a VM that was killed.
  """

  alias ReadStates.{Call, FaultyStore, Model, OtherVM}
  alias ReadStates.Store.Local

  @mib 1024 * 1024
  @users 1..200
  # So often, one after the other, a call has to be refused before that is taken for good; at the bound of the journal, for at
  # first only its next segment may not be ready.
  @tries 50
  @pause 20

  @doc "The tag, if no file system can be mounted here; says so."
  def left_out do
    directory = Path.join(System.tmp_dir!(), "read_states_full_disk_#{System.pid()}")
    File.mkdir_p!(directory)
    mounted = mount(directory, 1)
    if mounted == :ok, do: unmount(directory)
    File.rmdir(directory)

    case mounted do
      :ok ->
        []

      {:error, said} ->
        IO.puts(
          :stderr,
          "No file system can be mounted (#{said}): tests tagged :full_disk are left out"
        )

        [:full_disk]
    end
  end

  @doc "Mounts one of so many megabytes in this directory, which is made."
  def mount!(directory, mib) do
    File.mkdir_p!(directory)
    :ok = mount(directory, mib)
    directory
  end

  @doc "Takes it away, whoever has files of it open."
  def unmount(directory), do: System.cmd("umount", ["--lazy", directory], stderr_to_stdout: true)

  defp mount(directory, mib) do
    if System.find_executable("mount") do
      options = ~w(-t tmpfs -o size=#{mib}m,mode=700 tmpfs) ++ [directory]

      case System.cmd("mount", options, stderr_to_stdout: true) do
        {_said, 0} -> :ok
        {said, _status} -> {:error, String.trim(said)}
      end
    else
      {:error, "there is no mount"}
    end
  end

  @doc "Takes room in the directory: so many bytes, or all there is."
  def ballast(directory, bytes) do
    path = Path.join(directory, "ballast")
    {:ok, file} = :file.open(path, [:write, :raw])
    :ok = write(file, if(bytes == :all, do: :all, else: div(bytes, 4_096)))
    :file.close(file)
    path
  end

  # By the page, so that the last one is taken too.
  defp write(_file, 0), do: :ok

  defp write(file, pages) do
    case :file.write(file, :binary.copy("x", 4_096)) do
      :ok -> write(file, if(pages == :all, do: :all, else: pages - 1))
      {:error, :enospc} when pages == :all -> :ok
    end
  end

  @doc "Makes the file so many pages shorter."
  def cut(path, pages) do
    {:ok, file} = :file.open(path, [:read, :write, :raw])
    {:ok, _at} = :file.position(file, {:eof, -4_096 * pages})
    :ok = :file.truncate(file)
    :ok = :file.close(file)
  end

  @doc "Whose read states the calls count in."
  def users, do: @users

  @doc "The n-th call: one operation, or a batch."
  def call(n) do
    case rem(n, 4) do
      0 -> {:update, for(by <- 1..10, do: {:increment, user(n + by), 10, n, by})}
      1 -> {:increment, Enum.map(1..11, &user(n + &1)), 11, n, 1}
      _one -> {:increment, user(n), 10, n, 3}
    end
  end

  defp user(n), do: rem(n, Enum.count(@users)) + 1

  @doc """
  Makes the calls that follow on those before, the first one at first, until one is refused for good: with this reason, and
  with no other but `:overloaded` on the way. Returns the number of that call, and what all before it amount to.
  """
  def fill(name, reason, {n, model} \\ {1, %Model{}}) do
    call = call(n)

    if accepted?(name, call, reason, @tries) do
      fill(name, reason, {n + 1, Model.update(model, Call.operations(call))})
    else
      {n, model}
    end
  end

  defp accepted?(_name, _call, _reason, 0), do: false

  defp accepted?(name, call, reason, tries) do
    case Call.carry_out(name, call) do
      :ok ->
        true

      {:error, ^reason} ->
        Process.sleep(@pause)
        accepted?(name, call, reason, if(full?(name, reason), do: tries - 1, else: tries))

      {:error, :overloaded} ->
        Process.sleep(@pause)
        accepted?(name, call, reason, tries)
    end
  end

  defp full?(_name, :disk_full), do: true

  defp full?(name, :overloaded) do
    stats = ReadStates.stats(name)
    stats.journal_size >= stats.max_journal_size
  end

  @doc "What the calls before the n-th one amount to."
  def model(n) do
    for before <- 1..(n - 1)//1, reduce: %Model{} do
      model -> Model.update(model, Call.operations(call(before)))
    end
  end

  @doc """
  Fills the journal in this directory from a VM whose store, Local in another directory, refuses commits, and kills it with
  `kill -9` while it goes on trying. Returns the number of the call that was refused, which is also in the file `number`: all
  before it were acknowledged.
  """
  def fill_and_die(journal, store, number) do
    vm =
      OtherVM.start(
        "ReadStates.FullDisk.live(#{inspect(journal)}, #{inspect(store)}, #{inspect(number)})"
      )

    OtherVM.await(vm, "full")
    OtherVM.kill(vm)
    number |> File.read!() |> String.to_integer()
  end

  # From here on: in the VM that is killed.

  @doc false
  def live(journal, store, number) do
    {:ok, faults} = FaultyStore.start_link(self())
    :ok = FaultyStore.set(faults, :commit, {:return, {:error, :away}})

    {:ok, _instance} =
      ReadStates.start_link(
        name: __MODULE__,
        store: {FaultyStore, faults: faults, record: false, store: {Local, path: store}},
        journal: [path: journal, max_size: 16 * @mib],
        commit_after: 50,
        load_timeout: 60_000
      )

    {n, _model} = fill(__MODULE__, :disk_full)
    File.write!(number, to_string(n))
    IO.puts("full")
    go_on(call(n))
  end

  # Nothing of a call that was refused may be found.
  defp go_on(call) do
    {:error, _reason} = Call.carry_out(__MODULE__, call)
    go_on(call)
  end
end
