"""The embedded worker: the DSM networks in PyTorch, the engine that steps them, and the server around it.

Everything below this package may import torch; nothing else may. Importing `dsmops.worker` itself
imports no torch.
"""
