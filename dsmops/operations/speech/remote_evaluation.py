"""`evaluate --url`: a corpus through any moshi-server, and its word error rate."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from dsmops.audio import Samples
from dsmops.client.address import websocket_url
from dsmops.client.stt import Answer, transcribe
from dsmops.errors import CredentialsError, RemoteError
from dsmops.operations.speech.evaluation import (
    Evaluation,
    UtteranceResult,
    UtteranceRun,
    evaluation_of,
    open_corpus,
    require_not_a_recording,
)
from dsmops.operations.speech.incomplete import Incomplete
from dsmops.progress import SILENT, Progress
from dsmops.protocol import Word
from dsmops.scoring import Corpus, Normalizer, is_scored, normalizer

_ONE_STREAM_ONLY = "server.ended"
"""The failure of one stream. After any other one, the next stream would fail as well."""


def evaluate_remotely(
    source: str,
    url: str,
    *,
    reference: Path | None = None,
    api_key: str | None = None,
    streams: int = 1,
    limit: int | None = None,
    normal_form: Normalizer = Normalizer.ENGLISH,
    target: Path | None = None,
    progress: Progress = SILENT,
) -> Evaluation:
    """Transcribe recordings through the server at `url`, `streams` at a time, and compare them.

    Audio goes out as fast as the server answers. The other arguments are those of `evaluate`. When
    the server fails, the utterances so far keep their results, the others fail with its error, and
    the evaluation says why it is incomplete. The failure of one stream is that of its utterance.

    Raises:
        InputError, SourceError: the manifest or the address cannot be used, or no reference has
            words.
        CredentialsError, TransferError: the server failed before the first utterance was complete.
    """
    address = websocket_url(url)
    corpus = open_corpus(source, reference, progress)
    run = _Run(corpus, limit, normal_form, target, address, api_key, progress)
    count = corpus.count if limit is None else min(limit, corpus.count)
    progress.start(f"Evaluating on {corpus.name}", count, "recordings")
    try:
        asyncio.run(run.run_streams(min(streams, count)))
    finally:
        progress.finish()
    if run.failure is not None and not run.has_text:
        raise run.failure
    return replace(
        evaluation_of(corpus, run.results, normal_form, model=address),
        incomplete=Incomplete.because(run.failure) if run.failure is not None else None,
    )


class _Run:
    """The utterances of a corpus on their way through a server."""

    def __init__(
        self,
        corpus: Corpus,
        limit: int | None,
        normal_form: Normalizer,
        target: Path | None,
        address: str,
        api_key: str | None,
        progress: Progress,
    ) -> None:
        self.results: dict[int, UtteranceResult] = {}
        self.failure: RemoteError | CredentialsError | None = None
        self.has_text = False
        self._address, self._api_key = address, api_key
        self._target, self._progress = target, progress
        normalize = normalizer(normal_form)
        # One iterator for all streams: each takes the next utterance.
        self._utterances = (
            (number, utterance, UtteranceRun(utterance, normalize))
            for number, utterance in enumerate(islice(corpus.utterances, limit))
        )

    async def run_streams(self, streams: int) -> None:
        """Transcribe all utterances, so many at a time."""
        await asyncio.gather(*(self._run_stream() for _ in range(streams)))

    async def _run_stream(self) -> None:
        for number, utterance, run in self._utterances:
            require_not_a_recording(self._target, utterance)
            if not is_scored(run.normalized_reference):
                self.results[number] = run.dropped()
            elif self.failure is not None:
                self.results[number] = run.failed(f"not sent: {self.failure.message}")
            else:
                self.results[number] = await self._transcribe(run)
            self._progress.advance(1)

    async def _transcribe(self, run: UtteranceRun) -> UtteranceResult:
        words: list[str] = []

        def take(answer: Answer) -> None:
            if isinstance(answer, Word):
                words.append(answer.text)

        begin_s = asyncio.get_running_loop().time()
        try:
            await transcribe(
                self._address, _sent(run.frames()), take, api_key=self._api_key, speed=0.0
            )
        except (RemoteError, CredentialsError) as exc:
            if exc.code != _ONE_STREAM_ONLY:
                self.failure = self.failure or exc
            return run.failed(exc.message)
        self.has_text = True
        return run.result(" ".join(words), asyncio.get_running_loop().time() - begin_s)


async def _sent(frames: Iterator[Samples]) -> AsyncIterator[Samples]:
    for frame in frames:
        yield frame
