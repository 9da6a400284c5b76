defmodule ReadStates.Library do
  @moduledoc false
  # What modules whose functions are those of a NIF library share. Such a module is there even where its library cannot be loaded, and
  # its functions raise: a module that cannot be loaded would end the start of a release, also where nothing of it is used.

  # What `@on_load` is to return, of what `load_nif/0` has returned. Where the code is loaded anew, that before, which has its library, goes on.
  def loaded({:error, {:upgrade, _text}} = error), do: error
  def loaded(_loaded_or_not), do: :ok

  # :ok, or {:error, why it cannot be loaded}. The module has `load_nif/0`, and `available/0` as one of the library's functions.
  def available(module) do
    module.available()
    :ok
  catch
    :error, :nif_not_loaded -> load_again(module)
  end

  # For the reason, which nobody has kept.
  defp load_again(module) do
    case module.load_nif() do
      :ok -> :ok
      # Somebody else did at the same time.
      {:error, {:reload, _text}} -> :ok
      {:error, {_reason, text}} -> {:error, to_string(text)}
    end
  end
end
