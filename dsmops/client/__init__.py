"""A well-behaved client of any moshi-server, ours or the original."""
