defmodule ReadStates.Bench.Subject do
  @moduledoc false
  # Something that keeps read states, filled with those of a world and called as it would be by an application.

  alias ReadStates.Bench.World

  # What the calls of a run are, and what the run gets:
  #   :ack and :increment - operations of ReadStates.update/2, a call each;
  #   :update - lists of such operations, all of a list in one call where that exists;
  #   :get - {user, channel} each;
  #   :mention - {users, channel, message} each: the message mentions all of the users;
  #   :list and :total - a user each.
  @type call :: :ack | :increment | :update | :get | :mention | :list | :total

  @doc "What it is called in the results."
  @callback name() :: String.t()

  @doc "The most read states it is filled with, where that is less than any number."
  @callback most() :: pos_integer() | :infinity

  @doc "The calls it has."
  @callback calls() :: [call()]

  @doc "Makes one, filled with the world."
  @callback start(%World{}) :: term

  @doc "Bytes it takes, by each way there is of telling."
  @callback bytes(term) :: [{metric :: String.t(), bytes :: number}]

  @doc "The ways to make a call, the nearest to the call of ReadStates first: what is added to the name, and a run."
  @callback runs(term, call) :: [{suffix :: String.t(), (list -> any)}]
end
