defmodule ReadStates.Store.AddressTest do
  use ExUnit.Case, async: true

  import ReadStates.Store.Address

  alias ReadStates.Store.{Cassandra, Local, Memory, Postgres}

  test "stores in one word" do
    assert parse!("local:data/a:b") == {Local, path: "data/a:b"}
    assert parse!("postgres") == {Postgres, []}
    assert parse!("postgres://u:p@h:1/d") == {Postgres, url: "postgres://u:p@h:1/d"}
    assert parse!("postgresql://u@h/d") == {Postgres, url: "postgresql://u@h/d"}

    assert parse!("cassandra:a:1,b/chat") ==
             {Cassandra, contact_points: ["a:1", "b"], keyspace: "chat"}

    assert parse!("ReadStates.Store.Memory") == Memory
    assert parse!(~s({ReadStates.Store.Local, path: "a" <> "b"})) == {Local, path: "ab"}
    assert parse!("(send(self(), :started); ReadStates.Store.Memory)") == Memory
    assert_received :started
  end

  test "what is none is named" do
    for address <- [
          "",
          "local",
          "local:",
          "postgres:",
          "cassandra",
          "lokal:x",
          "mysql://u:secret@h/d"
        ] do
      error = assert_raise ArgumentError, fn -> parse!(address) end
      assert error.message =~ "must be local:PATH, postgres"
      refute error.message =~ "secret"
    end

    for address <- ["cassandra:", "cassandra:/k", "cassandra:a/", "cassandra:a"] do
      assert_raise ArgumentError, ~r/^must be cassandra:HOST/, fn -> parse!(address) end
    end
  end
end
