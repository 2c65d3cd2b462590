"""moshi-server TOML: plans, templates, lint."""
