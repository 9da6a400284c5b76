defmodule ReadStates.Suspects do
  @moduledoc false
  # Users whose load has failed, together with others: one of them may be to blame, as where the store cannot
  # read what it has of him. Each is loaded alone until that succeeds, so that he holds up nobody else.
  #
  # If it is the store that is away, they have done nothing: some fail alone, and nothing succeeds.

  # What is suspected in an outage is bounded. Beyond that users are loaded together, as ever.
  @most 500
  # Users who fail alone, one after the other, until it is the store.
  @enough 3

  defstruct users: MapSet.new(), failures: 0

  def suspect?(%__MODULE__{users: suspects}, user), do: MapSet.member?(suspects, user)

  def add(%__MODULE__{users: suspects} = state, users) do
    suspects = MapSet.union(suspects, MapSet.new(users))
    if MapSet.size(suspects) <= @most, do: %{state | users: suspects}, else: state
  end

  # Whether it is of no use to try others.
  def store_away?(%__MODULE__{failures: failures}), do: failures >= @enough

  def failed_alone(%__MODULE__{failures: failures} = state), do: %{state | failures: failures + 1}

  def loaded(%__MODULE__{users: suspects} = state, users) do
    if store_away?(state),
      do: %__MODULE__{},
      else: %{state | users: MapSet.difference(suspects, MapSet.new(users)), failures: 0}
  end
end
