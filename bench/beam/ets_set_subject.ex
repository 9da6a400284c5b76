defmodule ReadStates.Bench.ETSSetSubject do
  @moduledoc false
  # An ETS table of type set.

  @behaviour ReadStates.Bench.Subject

  alias ReadStates.Bench.ETSSubject

  @impl true
  def name, do: "ETS set"

  @impl true
  def most, do: :infinity

  @impl true
  def calls, do: [:ack, :increment, :update, :get, :mention]

  @impl true
  def start(world), do: ETSSubject.start(:set, world)

  @impl true
  defdelegate bytes(table), to: ETSSubject

  @impl true
  defdelegate runs(table, call), to: ETSSubject
end
