"""The server: sockets, access, metrics and logs. Never imports torch."""
