defmodule ReadStates.Suspects do
  @moduledoc false
  # Users whose load has failed, together with others: one of them may be to blame, as where the store cannot
  # read what it has of him. Each is loaded alone until that succeeds, so that he holds up nobody else.
  #
  # If it is the store that is away, they have done nothing: some fail alone, and nothing succeeds.

  # What is suspected is bounded. Beyond that those of before are forgotten: who is to blame fails once more with others.
  @most 500
  # Users who fail alone, with nobody loaded in between, until it is the store.
  @enough 3

  defstruct users: MapSet.new(), failed: MapSet.new()

  def suspect?(%__MODULE__{users: suspects}, user), do: MapSet.member?(suspects, user)

  def add(%__MODULE__{users: suspects} = state, users) do
    new = MapSet.new(users)
    all = MapSet.union(suspects, new)
    %{state | users: if(MapSet.size(all) <= @most, do: all, else: new)}
  end

  # Whether it is of no use to try others.
  def store_away?(%__MODULE__{failed: failed}), do: MapSet.size(failed) >= @enough

  def failed_alone(%__MODULE__{failed: failed} = state, user) do
    if store_away?(state), do: state, else: %{state | failed: MapSet.put(failed, user)}
  end

  # If it was the store, the others have done nothing. Those who have failed alone may have.
  def loaded(%__MODULE__{users: suspects, failed: failed} = state, users) do
    suspects = if store_away?(state), do: failed, else: suspects
    %__MODULE__{users: MapSet.difference(suspects, MapSet.new(users))}
  end
end
