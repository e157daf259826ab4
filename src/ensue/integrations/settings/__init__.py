"""What an integration needs to be told: declared on its class, read from the constructor or the environment."""
