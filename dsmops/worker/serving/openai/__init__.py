"""OpenAI's audio endpoints on the modules of the worker, for clients that are made for those."""
