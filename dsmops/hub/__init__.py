"""Where a checkpoint comes from: a path, the Hugging Face cache, `hf://`."""
