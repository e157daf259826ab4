"""Running SQL: the driver contract, its implementations and the system tables. Knows neither schema nor plan."""
