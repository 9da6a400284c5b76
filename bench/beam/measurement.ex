defmodule ReadStates.Bench.Measurement do
  @moduledoc false
  # One figure that was measured, as a line of JSON; bench/rust/src/measurement.rs describes the fields.

  alias ReadStates.Bench.World

  # What is measured, and when: this file is compiled when a benchmark begins.
  @commit "../commit" |> Path.expand(__DIR__) |> System.cmd([]) |> elem(0) |> String.trim()
  @date Date.to_iso8601(Date.utc_today())

  # `subject` is who did it, `metric` what the value is of, with its unit.
  def append(path, part, world, threads, work, subject, metric, value) do
    fields = [
      commit: @commit,
      date: @date,
      part: part,
      work: work,
      subject: subject,
      states: World.states(world),
      per_user: world.per_user,
      shared_by: world.shared_by,
      threads: threads,
      metric: metric,
      value: value
    ]

    File.write!(path, [encode(fields), ?\n], [:append])
  end

  defp encode(fields) do
    pairs = for {name, value} <- fields, do: [?", Atom.to_string(name), "\":", json(value)]
    [?{, Enum.intersperse(pairs, ?,), ?}]
  end

  # The names are the suite's own, so nothing in them needs an escape.
  defp json(value) when is_binary(value), do: [?", value, ?"]
  defp json(value) when is_number(value), do: to_string(value)
end
