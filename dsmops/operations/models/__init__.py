"""Where a model comes from: files, sources, voices, and loading them."""
