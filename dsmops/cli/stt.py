"""Commands that listen: `transcribe`, `evaluate`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Annotated, Literal

import typer

from dsmops.cli.options import DebugOpt, DTypeOpt, JsonOpt, QuietOpt, ServerKeyOpt
from dsmops.report import Reporter

DEFAULT_MODEL = "stt-1b-en_fr"
ModelOpt = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="SOURCE",
        help="A published model's name, hf://org/repo, a folder with a config.json, or a moshi-server .toml.",
    ),
]
CpuOpt = Annotated[
    bool,
    typer.Option("--cpu", help="Compute on the CPU. Default: CUDA device 0 where there is one."),
]


def check_text(text: str) -> str:
    """Callback of `--prompt-text`: bytes that are not UTF-8 come as lone surrogates, which no tokenizer takes."""
    if re.search("[\ud800-\udfff]", text):
        raise typer.BadParameter("the text is not UTF-8")
    return text


def transcribe(
    audio: Annotated[
        str | None,
        typer.Argument(
            metavar="AUDIO",
            help="Any file that libsndfile reads, at any rate; - for standard input.",
        ),
    ] = None,
    model: ModelOpt = DEFAULT_MODEL,
    dtype: DTypeOpt = None,
    cpu: CpuOpt = False,
    timestamps: Annotated[
        bool, typer.Option("--timestamps", help="Show each word with its start and stop.")
    ] = False,
    timing: Annotated[
        Literal["server", "python"],
        typer.Option(
            "--timing",
            help="Word times as moshi-server sends them, or as upstream's Python script.",
        ),
    ] = "server",
    vad: Annotated[
        bool, typer.Option("--vad", help="Show where turns end, by the model's semantic VAD.")
    ] = False,
    prompt_text: Annotated[
        str,
        typer.Option(
            "--prompt-text",
            metavar="TEXT",
            callback=check_text,
            help="Words that came before, to settle spelling.",
        ),
    ] = "",
    prompt_audio: Annotated[
        Path | None,
        typer.Option(
            "--prompt-audio",
            metavar="FILE",
            readable=False,
            help="A recording that came before; left out of the transcript.",
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            metavar="URL",
            help="Let this moshi-server do it, like ws://127.0.0.1:8080; the audio goes there.",
        ),
    ] = None,
    api_key: ServerKeyOpt = None,
    rtf: Annotated[
        float,
        typer.Option(
            "--rtf",
            metavar="X",
            min=0,
            help="Send audio to --url at X times real time; 0: as fast as it is taken.",
        ),
    ] = 1.01,
    send_ahead: Annotated[
        float,
        typer.Option(
            "--send-ahead",
            metavar="S",
            min=10,
            help="Seconds of audio sent to --url ahead of its answers.",
        ),
    ] = 60.0,
    mic: Annotated[
        bool,
        typer.Option(
            "--mic",
            help="Send the microphone instead of AUDIO to --url, until Ctrl-C (pip install 'dsmops[mic]').",
        ),
    ] = False,
    srt: Annotated[bool, typer.Option("--srt", help="Print SubRip captions.")] = False,
    vtt: Annotated[bool, typer.Option("--vtt", help="Print WebVTT captions.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            readable=False,
            help="Write the text or captions there; - for stdout.",
        ),
    ] = None,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Write down what is said in a recording, on this machine or through a server.

    Runs the embedded engine (pip install 'dsmops[worker]'), in the dtype that the card serves best,
    f32 on a CPU. Channels are mixed. With --url, Ctrl-C ends the recording there, and what was sent
    is still written down; a second one ends everything.

    \b
    Examples:
      dsmops transcribe speech.mp3
      dsmops transcribe --model config-stt-en_fr-lowram-sm75.toml --timestamps --vad meeting.flac
      ffmpeg -i talk.mkv -f wav - | dsmops transcribe --srt -o talk.srt -
      dsmops transcribe --url ws://127.0.0.1:8080 --rtf 0 speech.mp3
      dsmops transcribe --url ws://127.0.0.1:8080 --mic
    """
    from contextlib import ExitStack

    from dsmops.cli.views.transcription import captions, listening_notes, show_transcription
    from dsmops.files import replace_atomically
    from dsmops.operations.speech.transcription import Prompting
    from dsmops.operations.speech.transcription import transcribe as listen
    from dsmops.units import counted

    if sum((json, srt, vtt)) > 1:
        raise typer.BadParameter(
            "--json, --srt and --vtt are three forms of one output; choose one"
        )
    if not isfinite(send_ahead):
        raise typer.BadParameter(
            f"{send_ahead} is not a number of seconds", param_hint="--send-ahead"
        )
    if not isfinite(rtf):
        raise typer.BadParameter(
            f"{rtf} is no speed; 0 is as fast as it is taken", param_hint="--rtf"
        )
    if (not audio) != mic or (mic and url is None):
        raise typer.BadParameter(
            "name one AUDIO, or give --mic together with --url", param_hint="AUDIO"
        )
    if prompt_audio == Path("-"):
        raise typer.BadParameter(
            "standard input is for AUDIO alone; name a file", param_hint="--prompt-audio"
        )
    path = None if audio in (None, "", "-") else Path(os.path.expanduser(audio))  # noqa: PTH111 the method fails at ~name where nobody has that name
    output = None if output == Path("-") else output
    read = {
        "recording": path or Path("/dev/stdin"),
        "prompt": prompt_audio,
        "model": Path(model),
        "model's config": Path(model, "config.json"),
    }
    _require_other_file(output, read)
    if url is not None:
        _refuse_what_the_server_decides(
            model=model,
            dtype=dtype,
            cpu=cpu,
            prompt_text=prompt_text,
            prompt_audio=prompt_audio,
            timing=timing,
        )
    out = Reporter.open("transcribe", json=json, quiet=quiet, debug=debug)
    with ExitStack() as stack:
        # Before the work, which may take long, so that a target that cannot be written is told at
        # once.
        file = stack.enter_context(replace_atomically(output)) if output is not None else None
        if url is not None:
            from dsmops.operations.speech.remote_transcription import (
                transcribe_microphone,
                transcribe_remotely,
            )

            heard = (
                transcribe_microphone(url, out.live, api_key=api_key)
                if mic
                else transcribe_remotely(
                    path,
                    url,
                    api_key=api_key,
                    speed=rtf,
                    send_ahead_s=send_ahead,
                    progress=out.progress(),
                )
            )
        else:
            heard = listen(
                path,
                model,
                dtype=dtype,
                cpu=cpu,
                prompting=Prompting(prompt_text, prompt_audio),
                timing=timing,
                target=output,
                progress=out.progress(),
            )
        text = (
            captions(heard, srt=srt)
            if srt or vtt
            else list(show_transcription(heard, timestamps=timestamps, vad=vad))
        )
        if file is not None:
            file.write("".join(f"{line}\n" for line in text).encode())
            mark = ", incomplete" if heard.incomplete else ""
            text = [f"{output}: {counted(len(heard.words), 'word')} of {heard.audio_s:.1f} s{mark}"]
    for note in listening_notes(heard, vad=vad):
        out.note(note)
    out.result(heard, text)
    if heard.incomplete is not None:
        out.error(heard.incomplete.error())
        raise typer.Exit(heard.incomplete.exit_code)
    if heard.interrupted:
        raise typer.Exit(130)


def _refuse_what_the_server_decides(**chosen: object) -> None:
    """Refuse options that mean nothing to a server: it has its model, its dtype and its rules."""
    usual = {
        "model": DEFAULT_MODEL,
        "dtype": None,
        "cpu": False,
        "prompt_text": "",
        "prompt_audio": None,
        "timing": "server",
    }
    named = [
        f"--{name.replace('_', '-')}" for name, value in chosen.items() if value != usual[name]
    ]
    if named:
        raise typer.BadParameter(f"with --url the server decides; leave away {' and '.join(named)}")


def evaluate(
    manifest: Annotated[
        str,
        typer.Argument(
            metavar="MANIFEST",
            help="JSON Lines, CSV or TSV of recordings and references; hf-dataset://org/name[:config[:split]]; or its alias.",
        ),
    ],
    model: ModelOpt = DEFAULT_MODEL,
    dtype: DTypeOpt = None,
    cpu: CpuOpt = False,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            metavar="N",
            min=1,
            help="Recordings at a time. Default: 32 on a GPU, 4 on a CPU.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", metavar="N", min=1, help="Take only the first N utterances."),
    ] = None,
    normalizer: Annotated[
        Literal["english", "basic", "none"],
        typer.Option(
            "--normalizer",
            help="Whisper's rules for English, its basic ones for other languages, or texts as they are.",
        ),
    ] = "english",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            readable=False,
            help="Write one JSON line per utterance there.",
        ),
    ] = None,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Measure a model's word error rate on recordings whose words are known.

    Definitions are those of the published figures. Exits 1 if a recording could not be read: it is
    then in no figure, and named.

    \b
    Examples:
      dsmops evaluate manifest.jsonl
      dsmops evaluate calls.tsv --model config-stt-en_fr-lowram-sm75.toml --dtype f16 -o calls-f16.jsonl
      dsmops evaluate french.csv --normalizer basic --limit 100
      dsmops evaluate librispeech.clean --model stt-2.6b-en
    """
    from contextlib import ExitStack
    from json import dumps

    from dsmops.cli.views.evaluation import show_evaluation, speed_note
    from dsmops.files import replace_atomically
    from dsmops.operations.speech.evaluation import evaluate as measure
    from dsmops.report.document import to_json
    from dsmops.scoring import Normalizer

    _require_other_file(output, {"manifest": Path(manifest)})
    out = Reporter.open("evaluate", json=json, quiet=quiet, debug=debug)
    with ExitStack() as stack:
        # Before the work, which may take hours, so that a target that cannot be written is told at
        # once.
        lines = stack.enter_context(replace_atomically(output)) if output is not None else None
        report = measure(
            manifest,
            model,
            dtype=dtype,
            cpu=cpu,
            batch_size=batch_size,
            limit=limit,
            normal_form=Normalizer(normalizer),
            target=output,
            progress=out.progress(),
        )
        if lines is not None:
            lines.write(
                "".join(
                    f"{dumps(to_json(file), ensure_ascii=False)}\n" for file in report.files
                ).encode()
            )
    out.note(speed_note(report))
    out.result(report, show_evaluation(report))
    if report.totals.failed:
        raise typer.Exit(1)


def _require_other_file(output: Path | None, read: Mapping[str, Path | None]) -> None:
    """Usage error where `output` is one of the files that are to be read, which it would replace."""
    for what, path in read.items():
        if (
            output is not None
            and path is not None
            and output.exists()
            and path.exists()
            and output.samefile(path)
        ):
            raise typer.BadParameter(f"--output is the {what} itself; name another file")


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("transcribe")(transcribe)
    app.command("evaluate")(evaluate)
