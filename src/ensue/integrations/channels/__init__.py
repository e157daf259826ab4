"""The parts of `redis_channels`: who listens to what in this process, and the buses between processes."""
