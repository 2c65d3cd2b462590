"""The engine and the service beside numbers that a real moshi-server computed.

`tests/data/real-server/golden.json` holds two streams, one after the other in slot 0: the text
tokens and codes that went into each of 110 steps, and every answer. The streams pass the end of the
attention window (20 steps). `golden.json` also says how the weights are made: a full-size Mimi and
a small language model.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the worker extra is not installed")
pytest.importorskip("aiohttp", reason="the server extra is not installed")

import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from dsmops.audio import read
from dsmops.operations.models.stt import find_stt, load_stt_source
from dsmops.worker.models.loading import mimi_tensors
from dsmops.worker.models.mimi import MimiConfig
from dsmops.worker.models.stt import LoadedStt
from dsmops.worker.runtime.stt.engine import Alignment, SttEngine
from dsmops.worker.runtime.stt.interface import SttOutput
from tests.support.networks import random_weights
from tests.support.stt_client import SttClient
from tests.support.workers import KEY, ThreadedServer

pytestmark = pytest.mark.slow

DATA = Path(__file__).resolve().parents[3] / "data" / "real-server"
FRAME = 1920
MIMI_SEED, LM_SEED = 11, 12
PROBABILITIES = 1e-5
"""The largest distance seen is 3.3e-7; another order of summing may cost a little more."""


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    """What the real server computed."""
    document: dict[str, Any] = json.loads((DATA / "golden.json").read_text())
    return document


@pytest.fixture(scope="module")
def pcm() -> NDArray[np.float32]:
    """The sound of both streams, float32 [110 · 1920]."""
    return read(DATA / "input.wav")


def check(weights: dict[str, Tensor], recorded: dict[str, Any]) -> None:
    """Fail where the recipe gives other weights here than it gave for the real server."""
    for name, facts in recorded.items():
        tensor = weights[name]
        assert list(tensor.shape) == facts["shape"]
        assert tensor.flatten()[: len(facts["first"])].tolist() == facts["first"], name
        assert float(tensor.double().sum()) == pytest.approx(facts["sum"], abs=1e-6), name


@pytest.fixture(scope="module")
def model(golden: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedStt]:
    """The model that the real server ran, loaded by its own config."""
    folder = tmp_path_factory.mktemp("real-server")
    for name in ("server.toml", "tokenizer.model"):
        shutil.copy(DATA / name, folder)
    mimi = random_weights(mimi_tensors(MimiConfig()), seed=MIMI_SEED)
    check(mimi, golden["weights"]["mimi_check"])
    save_file(mimi, folder / "mimi.safetensors")
    del mimi
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "lm.safetensors").touch()  # only its name is looked at before it is loaded
        source = find_stt("server.toml")
        lm = random_weights(source.config.lm.tensors(), seed=LM_SEED)
        lm["text_linear.weight"][[0, 3]] *= 3
        check(lm, golden["weights"]["lm_check"])
        save_file(lm, folder / "lm.safetensors")
        loaded = load_stt_source(source, cpu=True)
    threads = torch.get_num_threads()
    yield loaded
    torch.set_num_threads(threads)
    shutil.rmtree(folder)


@dataclass
class Steps:
    """What slot 0 took and gave in each step."""

    text: list[int] = field(default_factory=list)
    codes: list[list[int]] = field(default_factory=list)


class WatchedEngine(SttEngine):
    """Notes what slot 0 takes, per stream. Steps before the first stream are the warm-up."""

    streams: list[Steps]

    def reset(self, slots: Any) -> None:
        super().reset(slots)
        if 0 in slots:
            self.streams.append(Steps())

    def step(self, pcm: Any, exec_mask: Any, forced: Any = None) -> SttOutput:
        if self.streams:
            lm, steps = self.model.lm, self.streams[-1]
            begun = bool(self._started[0])
            steps.text.append(int(self._last_text[0]) if begun else lm.initial_text)
            steps.codes.append(
                self._held_codes[0].tolist()
                if begun
                else [lm.initial_audio] * len(self._held_codes[0])
            )
        return super().step(pcm, exec_mask, forced)


def test_the_service_gives_what_the_real_server_gave(
    golden: dict[str, Any], pcm: NDArray[np.float32], model: LoadedStt
) -> None:
    """Over the WebSocket: codes, tokens, words and times equal, probabilities within 1e-5."""
    engines: list[WatchedEngine] = []

    def open_engine() -> WatchedEngine:
        engine = WatchedEngine(model, 1)
        engine.streams = []
        engines.append(engine)
        return engine

    with ThreadedServer(open_engine) as server:
        for stream in golden["streams"]:
            first, last = stream["frames"]
            with SttClient(server.url, KEY) as client:
                client.audio(pcm[first * FRAME : last * FRAME])
                answers = [client.receive() for _ in stream["answers"]]
            for ours, theirs in zip(answers, stream["answers"], strict=True):
                compare(ours, theirs)
    for ours, theirs in zip(engines[0].streams, golden["streams"], strict=True):
        assert ours.text == theirs["text_tokens_in"]
        assert ours.codes == theirs["audio_codes_in"]


def compare(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Fail where two answers differ in more than the counters of a server."""
    assert ours["type"] == theirs["type"]
    if ours["type"] == "Step":
        np.testing.assert_allclose(ours["prs"], theirs["prs"], rtol=0, atol=PROBABILITIES)
    elif ours["type"] == "Word":
        assert (ours["text"], ours["start_time"]) == (
            theirs["text"],
            pytest.approx(theirs["start_time"], abs=1e-6),
        )
    else:
        assert ours == {**theirs, "stop_time": pytest.approx(theirs["stop_time"], abs=1e-6)}


@pytest.mark.slow
def test_lmgen_starts_a_stream_as_pytorch_does(
    golden: dict[str, Any], pcm: NDArray[np.float32], model: LoadedStt
) -> None:
    """The codes of its first frame are those of the whole signal, and not the server's."""
    frame = pcm[:FRAME][None]
    lmgen, server = (
        SttEngine(model, 1, alignment=alignment)
        for alignment in (Alignment.LMGEN, Alignment.SERVER)
    )
    for engine in (lmgen, server):
        engine.step(frame, np.ones(1, np.bool_))
    with torch.inference_mode():
        whole = model.mimi.encode(torch.from_numpy(frame)[None], server.codes.shape[1])[0, :, 0]
    assert lmgen.codes[0].tolist() == whole.tolist()
    assert server.codes[0].tolist() == golden["streams"][0]["audio_codes_in"][1]
    assert int((lmgen.codes != server.codes).sum()) > 16
