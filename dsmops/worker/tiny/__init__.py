"""Tiny models with random weights: all files of a published repository, generated."""
