"""Read, convert and verify safetensors checkpoints, streaming and without torch."""
