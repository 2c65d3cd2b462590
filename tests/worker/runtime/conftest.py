"""The tiny model, loaded once. Steps this small gain nothing from threads."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch

from dsmops.dtypes import ComputeDType
from dsmops.worker.models.stt import LoadedStt, load_stt
from dsmops.worker.models.stt_config import SttConfig
from dsmops.worker.tiny.stt import TinyStt


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def config(tiny_stt: TinyStt) -> SttConfig:
    """What the tiny model's `config.json` says."""
    return SttConfig.from_json(json.loads(tiny_stt.model_config.read_text()))


@pytest.fixture(scope="session")
def model(tiny_stt: TinyStt, config: SttConfig) -> LoadedStt:
    """The tiny model in float32 on the CPU."""
    return load_stt(tiny_stt.files, config, device=torch.device("cpu"), dtype=ComputeDType.F32)
