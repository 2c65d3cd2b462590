"""Measurements beside their peers; `python -m tests.bench` runs them all."""
