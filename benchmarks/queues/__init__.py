"""Side by side: transactional enqueue and delivery of effects that do nothing, by ensue, DBOS, procrastinate and pgqueuer."""
