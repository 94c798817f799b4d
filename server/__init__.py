"""The door where OpenEnv's tools knock. It opens onto `env_server.app` and holds nothing itself."""
