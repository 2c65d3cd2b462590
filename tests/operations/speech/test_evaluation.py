"""A corpus through the tiny model: rates that are known beforehand, batches that do not matter,
recordings that cannot be read.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from dsmops.audio import read, write
from dsmops.errors import CheckpointError, InputError, SourceError
from dsmops.operations.speech.evaluation import (
    Evaluation,
    ScoringStatus,
    evaluate,
    evaluate_transcript,
)
from dsmops.progress import SilentProgress
from dsmops.scoring import Normalizer, normalizer
from dsmops.worker.tiny.stt import write_tiny_stt
from tests.support.edit_distance import edit_distance
from tests.support.fake_datasets import Rows, install
from tests.support.sound import sweep

LENGTHS_S = (0.9, 2.5, 1.3, 3.1, 2.0)


class Recorder(SilentProgress):
    """A `Progress` that remembers."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    def start(self, label: str, total: int | None, unit: str = "bytes") -> None:
        self.seen = [label, total, unit, 0]

    def advance(self, amount: int) -> None:
        self.seen[3] += amount  # type: ignore[operator]

    def finish(self) -> None:
        self.seen.append("finished")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model and recordings of different lengths with different sounds, noise included."""
    folder = tmp_path_factory.mktemp("corpus")
    write_tiny_stt(folder / "model")
    random = np.random.default_rng(5)
    for number, seconds in enumerate(LENGTHS_S):
        noise = random.standard_normal(round(24_000 * seconds)).astype(np.float32)
        write(
            folder / f"{number}.wav",
            [sweep(24_000, seconds) * np.float32(0.5) + noise * np.float32(0.02 * (number + 1))],
        )
    return folder


def run(
    folder: Path, references: Mapping[str, str], *, model: str = "model", **options: object
) -> Evaluation:
    """Evaluate a tiny model on a manifest of `references` by recording."""
    lines = [json.dumps({"audio": audio, "text": text}) for audio, text in references.items()]
    (folder / "manifest.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return evaluate(str(folder / "manifest.jsonl"), str(folder / model), cpu=True, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def said(folder: Path) -> dict[str, str]:
    """What the tiny model transcribes from each recording."""
    report = run(
        folder, {f"{number}.wav": "anything" for number in range(len(LENGTHS_S))}, batch_size=1
    )
    return {file.audio: file.hypothesis or "" for file in report.files}


@pytest.mark.slow
def test_its_own_words_are_no_errors(folder: Path, said: dict[str, str]) -> None:
    """References that are the model's own transcripts give 0 everywhere; all audio is counted, to
    the sample.
    """
    progress = Recorder()
    report = run(folder, said, progress=progress)
    totals = report.totals
    assert (totals.wer, totals.cer, totals.corpus_wer) == (0, 0, 0)
    assert (totals.utterances, totals.scored, totals.dropped, totals.failed) == (5, 5, 0, 0)
    assert (
        totals.words.hits
        == sum(len(normalizer(Normalizer.ENGLISH)(text).split()) for text in said.values())
        > 20
    )
    assert totals.audio_s == pytest.approx(sum(LENGTHS_S))
    assert [file.audio_s for file in report.files] == pytest.approx(LENGTHS_S)
    assert totals.speedup == pytest.approx(totals.audio_s / totals.compute_s)
    assert progress.seen == [f"Evaluating on {report.manifest}", 5, "recordings", 5, "finished"]


@pytest.mark.slow
def test_words_of_other_recordings_are_the_errors_they_are(
    folder: Path, said: dict[str, str]
) -> None:
    """References moved by one recording give the rates that the textbook table gives for those
    pairs.
    """
    names, texts = list(said), list(said.values())
    report = run(folder, dict(zip(names, texts[1:] + texts[:1], strict=True)))
    normalize = normalizer(Normalizer.ENGLISH)
    pairs = [
        (normalize(other), normalize(own))
        for own, other in zip(texts, texts[1:] + texts[:1], strict=True)
    ]
    errors = [
        edit_distance(reference.split(), hypothesis.split()) for reference, hypothesis in pairs
    ]
    lengths = [len(reference.split()) for reference, _ in pairs]
    assert sum(errors) > 20
    assert report.totals.words.errors == sum(errors)
    assert report.totals.corpus_wer == pytest.approx(sum(errors) / sum(lengths))
    assert report.totals.wer == pytest.approx(
        sum(e / n for e, n in zip(errors, lengths, strict=True)) / len(pairs)
    )
    assert report.totals.cer == pytest.approx(
        sum(edit_distance(r, h) / len(r) for r, h in pairs) / len(pairs)
    )
    assert [file.audio for file in report.files] == names


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [2, 3, 64])
def test_how_many_at_a_time_changes_no_word(
    folder: Path, said: dict[str, str], batch_size: int
) -> None:
    """Recordings take each other's slots over, or all run at once: the same texts in the same
    order, and no slot without a recording.
    """
    report = run(folder, dict.fromkeys(said, "x"), batch_size=batch_size)
    assert {file.audio: file.hypothesis for file in report.files} == said
    assert report.batch_size == min(batch_size, len(said))


@pytest.mark.slow
def test_unreadable_recordings_are_told_and_the_rest_goes_on(
    folder: Path, said: dict[str, str]
) -> None:
    """No audio, missing, a folder: each failed with its reason, in no figure; the others score as
    ever.
    """
    (folder / "text.wav").write_text("no audio")
    broken = dict.fromkeys(["text.wav", "gone.wav", "model"], "words")
    report = run(folder, {**broken, **said}, batch_size=2)
    failed, rest = report.files[:3], report.files[3:]
    assert [
        (file.audio, file.status, file.wer, file.hypothesis, file.audio_s) for file in failed
    ] == [(audio, ScoringStatus.FAILED, None, None, None) for audio in broken]
    for file, reason in zip(
        failed, ("not readable as audio", "No such file", "folder"), strict=True
    ):
        assert file.error is not None
        assert reason in file.error
    assert [file.wer for file in rest] == [0] * 5
    assert (report.totals.failed, report.totals.scored, report.totals.corpus_wer) == (3, 5, 0)
    assert report.totals.audio_s == pytest.approx(sum(LENGTHS_S))


def test_a_recording_that_is_cut_short_is_scored_with_a_warning(folder: Path) -> None:
    """All that is there, as `transcribe` has it; the figures are over it."""
    (folder / "cut.wav").write_bytes((folder / "1.wav").read_bytes()[:60_000])
    file = run(folder, {"cut.wav": "words"}).files[0]
    assert (file.status, file.audio_s) == (ScoringStatus.SCORED, pytest.approx(1.25, abs=0.01))
    assert "cut short" in file.warnings[0]


@pytest.mark.slow
def test_utterances_of_one_file_are_cut_out_of_it(folder: Path, said: dict[str, str]) -> None:
    """NeMo's manifests give an offset and a duration: each utterance is transcribed as a file of
    its own would be.
    """
    joined = np.concatenate([read(folder / f"{number}.wav") for number in range(3)])
    write(folder / "joined.wav", [joined])
    rows, offset_s = [], 0.0
    for number, seconds in enumerate(LENGTHS_S[:3]):
        times = {"offset": offset_s, "duration": seconds}
        rows.append({"audio_filepath": "joined.wav", "text": said[f"{number}.wav"], **times})
        offset_s += seconds
    rows.append({"audio_filepath": "joined.wav", "text": "x", "offset": 99, "duration": 1})
    (folder / "nemo.json").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    report = evaluate(str(folder / "nemo.json"), str(folder / "model"), cpu=True)
    assert [file.wer for file in report.files] == [0, 0, 0, None]
    assert [file.audio_s for file in report.files[:3]] == pytest.approx(LENGTHS_S[:3])
    assert "ends before 99.00 s" in (report.files[3].error or "")


@pytest.mark.slow
def test_one_recording_with_its_reference(folder: Path, said: dict[str, str]) -> None:
    """No manifest is needed; a reference that is not there is an error."""
    (folder / "1.txt").write_text(said["1.wav"], encoding="utf-8")
    audio, model = str(folder / "1.wav"), str(folder / "model")
    report = evaluate(audio, model, reference=folder / "1.txt", cpu=True)
    assert (report.totals.corpus_wer, report.totals.scored, report.batch_size) == (0, 1, 1)
    with pytest.raises(SourceError, match=r"gone\.txt"):
        evaluate(audio, model, reference=folder / "gone.txt", cpu=True)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.txt", "The cat sat on the mat."),
        ("t.json", '{"schema": "dsmops.transcribe/1", "text": "the cat sat on the mat"}'),
        (
            "t.srt",
            (
                "1\r\n00:00:00,000 --> 00:00:01,000\r\nThe cat\r\nsat\r\n\r\n"
                "2\r\n00:00:01,000 --> 00:00:02,000\r\non <i>the</i> mat.\r\n"
            ),
        ),
        ("t.vtt", "WEBVTT\n\nnote 1\n00:00.000 --> 00:02.000\nthe cat sat on the mat\n"),
    ],
)
def test_a_finished_transcript_is_scored_without_a_model(
    tmp_path: Path, name: str, content: str
) -> None:
    """Text, captions and the JSON of `transcribe`: one deletion in seven words."""
    (tmp_path / name).write_bytes(content.encode())
    (tmp_path / "ref.txt").write_text("the black cat sat on the mat", encoding="utf-16")
    report = evaluate_transcript(tmp_path / name, tmp_path / "ref.txt")
    assert report.totals.corpus_wer == pytest.approx(1 / 7)
    assert (report.totals.words.deletions, report.device, report.batch_size) == (1, None, None)


def test_a_normalizer_that_does_not_fit_the_language_is_noticed(tmp_path: Path) -> None:
    """The rules for English on French references; the basic ones fit all."""
    french = "je ne sais pas ce que vous voulez, mais il est dans la maison et elle est sur le toit"
    for name in ("hyp.txt", "ref.txt"):
        (tmp_path / name).write_text(french)
    pair = tmp_path / "hyp.txt", tmp_path / "ref.txt"
    assert evaluate_transcript(*pair).language == "French"
    assert evaluate_transcript(*pair, normal_form=Normalizer.BASIC).language is None


@pytest.mark.slow
def test_a_dataset_is_heard_as_its_files_would_be(
    folder: Path, said: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows hold whole files as bytes; one that is damaged is reported by its name, or its
    number.
    """
    rows = [
        {"audio": {"bytes": (folder / audio).read_bytes(), "path": audio}, "sentence": text}
        for audio, text in said.items()
    ]
    damaged = [
        {"audio": {"bytes": b"RIFF", "path": path}, "sentence": "x"}
        for path in ("x/damaged.wav", None)
    ]
    install(monkeypatch, lambda *_, **__: Rows([*damaged, *rows]))
    report = evaluate("hf-dataset://org/name", str(folder / "model"), cpu=True, limit=4)
    assert [file.status for file in report.files] == [ScoringStatus.FAILED] * 2 + [
        ScoringStatus.SCORED
    ] * 2
    assert [(file.error or "").partition(":")[0] for file in report.files[:2]] == [
        "damaged.wav",
        "row 1",
    ]
    assert (report.manifest, report.totals.corpus_wer) == ("hf-dataset://org/name", 0)
    install(monkeypatch, lambda *_, **__: Rows([]))
    with pytest.raises(InputError, match="hf-dataset://org/name is empty"):
        evaluate("hf-dataset://org/name", str(folder / "model"), cpu=True)


def test_references_that_say_nothing_are_dropped(folder: Path, said: dict[str, str]) -> None:
    """Brackets, fillers, nothing at all and TEDLIUM's mark are counted as dropped, and not listened
    to.
    """
    empty = {"0.wav": "[music] uh", "1.wav": "", "2.wav": "ignore_time_segment_in_scoring"}
    report = run(folder, {**empty, "3.wav": said["3.wav"], "gone.wav": " "})
    assert [file.status for file in report.files] == [ScoringStatus.DROPPED] * 3 + [
        ScoringStatus.SCORED,
        ScoringStatus.DROPPED,
    ]
    assert (
        report.totals.dropped,
        report.totals.scored,
        report.totals.failed,
        report.totals.corpus_wer,
    ) == (4, 1, 0, 0)
    assert report.totals.audio_s == pytest.approx(LENGTHS_S[3])


def test_silence_for_words_is_all_deletions(folder: Path) -> None:
    """An empty hypothesis has a rate of 1, in words and in characters."""
    write(folder / "silence.wav", [np.zeros(24_000, np.float32)])
    (file,) = run(folder, {"silence.wav": "twenty one words"}).files
    assert (file.hypothesis, file.normalized_reference, file.wer, file.cer) == (
        "",
        "21 words",
        1,
        1,
    )
    assert file.score is not None
    assert (file.score.words.deletions, file.score.words.errors) == (2, 2)


@pytest.mark.slow
def test_the_normaliser_decides_what_is_the_same(folder: Path, said: dict[str, str]) -> None:
    """A reference in capitals is wrong only where texts are compared as they are."""
    loud = {audio: text.upper() for audio, text in said.items()}
    assert run(folder, loud, normal_form=Normalizer.BASIC).totals.wer == 0
    assert (run(folder, loud, normal_form=Normalizer.NONE).totals.wer or 0) > 0.5


@pytest.mark.slow
def test_a_limit_takes_the_first(folder: Path, said: dict[str, str]) -> None:
    """Only so many lines count; more than there are is all of them."""
    assert [file.audio for file in run(folder, said, limit=2).files] == list(said)[:2]
    assert len(run(folder, said, limit=99).files) == 5


def test_nothing_to_score_is_bad_input(folder: Path) -> None:
    """A corpus whose references all say nothing has no rate, and says what to try."""
    with pytest.raises(InputError, match="no reference has words") as caught:
        run(folder, {"0.wav": "[noise]", "1.wav": "(laughs)"})
    assert "--normalizer" in caught.value.hint


def test_an_alias_that_is_none_is_told_with_those_that_are(folder: Path) -> None:
    """A name without a file behind it may be a misspelled dataset."""
    with pytest.raises(SourceError, match="librispeech is not a file") as caught:
        evaluate("librispeech", str(folder / "model"))
    assert "librispeech.clean" in caught.value.hint


def test_numbers_that_are_not_finite_end_it(folder: Path, said: dict[str, str]) -> None:
    """A damaged model gets no error rate, however good it looks."""
    from safetensors.torch import load_file, save_file

    tiny = write_tiny_stt(folder / "damaged")
    tensors = load_file(tiny.files.lm)
    tensors["text_linear.weight"][7] = float("nan")
    save_file(tensors, tiny.files.lm)
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        run(folder, said, model="damaged")
