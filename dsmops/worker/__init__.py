"""The embedded worker: the DSM networks in PyTorch, the engines that step them, and the server.

Everything below this package may import torch; nothing else may. Importing `dsmops.worker` itself
imports no torch, but tells OpenMP how to wait before anything here does.
"""

from dsmops.worker.openmp import limit_spinning

limit_spinning()
