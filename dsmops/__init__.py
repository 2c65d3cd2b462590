"""GPU and checkpoint operations for Kyutai's Delayed Streams Modeling (DSM) speech models."""

__version__ = "0.1.0"
