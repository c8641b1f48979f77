"""Many calls at once, in memory: the worker pool and what limits it."""
