# Of this project alone: Mix reads the configuration of an application, never that of what it depends on.
import Config

# All stores are tested, and none that needs a server is built for the demo.
config :read_states, stores: if(config_env() == :test, do: [:cassandra, :postgres], else: [])
