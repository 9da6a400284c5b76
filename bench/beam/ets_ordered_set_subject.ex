defmodule ReadStates.Bench.ETSOrderedSetSubject do
  @moduledoc false
  # An ETS table of type ordered_set, in which the read states of a user are next to each other.

  @behaviour ReadStates.Bench.Subject

  alias ReadStates.Bench.ETSSubject
  alias ReadStates.ReadState

  @impl true
  def name, do: "ETS ordered_set"

  @impl true
  def most, do: :infinity

  @impl true
  def calls, do: [:ack, :increment, :get, :list, :total]

  @impl true
  def start(world), do: ETSSubject.start(:ordered_set, world)

  @impl true
  defdelegate bytes(table), to: ETSSubject

  # Structs made by the match specification itself take as long where the memory is waited for, and longer where not.
  @impl true
  def runs(table, :list) do
    [
      {", select",
       &Enum.each(&1, fn user ->
         for {channel, last, mentions} <- :ets.select(table, tuples(user)) do
           %ReadState{
             kind: 0,
             channel: channel,
             last_message_id: last,
             counters: %{mention_count: mentions}
           }
         end
       end)}
    ]
  end

  def runs(table, :total) do
    [
      {", select and sum",
       &Enum.each(&1, fn user -> Enum.sum(:ets.select(table, counts(user))) end)}
    ]
  end

  def runs(table, call), do: ETSSubject.runs(table, call)

  defp tuples(user), do: [{{{user, :"$1"}, :"$2", :"$3"}, [], [{{:"$1", :"$2", :"$3"}}]}]
  # Most are 0, and need not leave the table.
  defp counts(user), do: [{{{user, :_}, :_, :"$1"}, [{:>, :"$1", 0}], [:"$1"]}]
end
