"""What is made of a run's telemetry: metrics for Prometheus, spans for OpenTelemetry; each library imported only when used."""
