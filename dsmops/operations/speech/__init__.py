"""Transcribe, synthesize, evaluate and serve."""
