"""The engine: slots, batching, words, step times. No wire format, no sockets."""
