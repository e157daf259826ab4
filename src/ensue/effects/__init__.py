"""DELIVER: effects leave the table that the engine wrote them to, at least once each. Knows neither plan nor engine."""
