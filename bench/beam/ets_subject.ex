defmodule ReadStates.Bench.ETSSubject do
  @moduledoc false
  # A table of {{user, channel}, last_message_id, mention_count}, what both kinds of table share. They do less than
  # ReadStates: nothing compares message ids, and nothing is ever evicted or committed.

  alias ReadStates.Bench.World

  # Where several processes write, without this they wait for each other; where one does, it only costs.
  def start(type, world) do
    concurrent = System.schedulers_online() > 1

    table =
      :ets.new(type, [type, :public, read_concurrency: false, write_concurrency: concurrent])

    World.each_rows(world, &:ets.insert(table, &1))
    table
  end

  def bytes(table) do
    [{"bytes/state", :ets.info(table, :memory) * :erlang.system_info(:wordsize)}]
  end

  # update_counter is the least that can be done to a row, update_element what an ack means.
  def runs(table, :ack) do
    [
      {", update_counter",
       &Enum.each(&1, fn {:ack, user, channel, _message} ->
         :ets.update_counter(table, {user, channel}, {3, 1})
       end)},
      {", update_element",
       &Enum.each(&1, fn {:ack, user, channel, message} ->
         :ets.update_element(table, {user, channel}, [{2, message}, {3, 0}])
       end)}
    ]
  end

  def runs(table, :increment) do
    [
      {", update_counter",
       &Enum.each(&1, fn {:increment, user, channel, _message, by} ->
         :ets.update_counter(table, {user, channel}, {3, by})
       end)}
    ]
  end

  def runs(table, :update) do
    count = fn operation ->
      :ets.update_counter(table, {elem(operation, 1), elem(operation, 2)}, {3, 1})
    end

    count_or_ack = fn
      {:ack, user, channel, message} ->
        :ets.update_element(table, {user, channel}, [{2, message}, {3, 0}])

      {:increment, user, channel, _message, by} ->
        :ets.update_counter(table, {user, channel}, {3, by})
    end

    [
      {", update_counter", &Enum.each(&1, fn operations -> Enum.each(operations, count) end)},
      {", update_counter and update_element",
       &Enum.each(&1, fn operations -> Enum.each(operations, count_or_ack) end)}
    ]
  end

  def runs(table, :get), do: [{", lookup", &Enum.each(&1, fn key -> :ets.lookup(table, key) end)}]

  def runs(table, :mention) do
    [
      {", update_counter",
       &Enum.each(&1, fn {users, channel, _message} ->
         Enum.each(users, fn user ->
           key = {user, channel}
           :ets.update_counter(table, key, {3, 1}, {key, 0, 0})
         end)
       end)}
    ]
  end
end
