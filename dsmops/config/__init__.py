"""Facts to moshi-server TOML and back: plans, templates, lint."""
