"""Working many runs off: what a sweep consists of, and a plan of it."""
