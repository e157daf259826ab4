"""What a transaction causes outside: its effects, put into their table before COMMIT."""
