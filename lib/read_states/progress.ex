defmodule ReadStates.Progress do
  @moduledoc false
  # A progress bar of one line, drawn only on a terminal.

  @width 40

  @doc "A function to be called with how much of how much is done."
  @spec bar() :: (non_neg_integer, non_neg_integer -> :ok)
  def bar do
    if terminal?(), do: &draw/2, else: fn _read, _size -> :ok end
  end

  @doc "Takes the bar away, so that the next line starts on a clean one."
  @spec clear() :: :ok
  def clear do
    if terminal?(), do: IO.write(["\r", IO.ANSI.clear_line()]), else: :ok
  end

  # Standard output is one, and is where this process writes.
  defp terminal?, do: IO.ANSI.enabled?() and Process.group_leader() == Process.whereis(:user)

  defp draw(read, size) do
    # What is no regular file has no size, and a file may grow while it is read.
    done = min(read / max(size, 1), 1.0)
    full = trunc(done * @width)

    IO.write([
      "\r[",
      String.duplicate("#", full),
      String.duplicate("-", @width - full),
      "] #{trunc(done * 100)} %"
    ])
  end
end
