"""Many recordings through one loaded model, into a folder that can be continued at any time."""
