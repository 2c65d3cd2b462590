"""Detect, choose and judge GPUs, without torch."""
