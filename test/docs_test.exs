defmodule ReadStates.DocsTest do
  use ExUnit.Case, async: true

  # Every module in lib/ is either documented, with a doc for whatever can be called, implemented or named in a
  # type, and a spec for each function, or says that it is internal (`@moduledoc false`). The type `t` of a module
  # needs no doc of its own.

  @lib Path.expand("../lib", __DIR__)

  defp documented_modules do
    {:ok, modules} = :application.get_key(:read_states, :modules)

    for module <- modules,
        in_lib?(module),
        not function_exported?(module, :__impl__, 1),
        documented = docs(module),
        do: {module, documented}
  end

  defp in_lib?(module) do
    module.module_info(:compile)[:source] |> List.to_string() |> String.starts_with?(@lib <> "/")
  end

  defp docs(module) do
    {:docs_v1, _, _, _, moduledoc, _, docs} = Code.fetch_docs(module)
    if moduledoc != :hidden, do: {moduledoc, docs}
  end

  defp entry({{:type, :t, 0}, _, _, _doc, _}), do: {"t/0", :itself}
  defp entry({{_, name, arity}, _, _, doc, _}), do: {"#{name}/#{arity}", doc}

  test "every public module, function, macro, callback and type is documented" do
    modules = documented_modules()
    assert modules != []

    missing =
      for {module, {moduledoc, docs}} <- modules,
          {name, :none} <- [{"itself", moduledoc} | Enum.map(docs, &entry/1)],
          do: "#{inspect(module)} #{name}"

    assert missing == []
  end

  test "every public function has a spec" do
    missing =
      for {module, {_, docs}} <- documented_modules(),
          {:ok, specs} = Code.Typespec.fetch_specs(module),
          {{:function, name, arity}, _, _, doc, _} <- docs,
          doc != :hidden,
          not List.keymember?(specs, {name, arity}, 0),
          do: "#{inspect(module)}.#{name}/#{arity}"

    assert missing == []
  end
end
