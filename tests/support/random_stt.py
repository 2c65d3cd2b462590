"""Where the benchmarks and reports find full-size models with random weights."""

from dsmops.worker.models.random import NoText, random_stt

__all__ = ["NoText", "random_stt"]
