"""Commands from speech to text: `transcribe`, `evaluate`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dsmops import user_settings
from dsmops.cli import options as opt
from dsmops.cli import values
from dsmops.cli.arguments import (
    FileCommand,
    RayCommand,
    expanded,
    parse_output_dir,
    parse_shard,
    refuse_with_many,
    refuse_with_url,
    require_file_or_object,
    require_no_address,
    require_other_file,
)
from dsmops.cli.help import SERVE
from dsmops.dtypes import ComputeDType, Quant, Quantised
from dsmops.models import DEFAULT_STT
from dsmops.report import Document, Reporter

if TYPE_CHECKING:
    from dsmops.operations.speech.many.executors import Executor
    from dsmops.operations.speech.transcription import Transcription

ModelOpt = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="SOURCE",
        envvar=user_settings.STT_MODEL,
        autocompletion=values.models,
        help="Published name, tiny, hf://org/repo, folder or .toml.",
    ),
]
_TYPES = ("BatchedAsr", "Asr")
"""Modules that transcribe."""
Form = Literal["text", "srt", "vtt", "json"]
_FORMS: dict[str, Form] = {".txt": "text", ".srt": "srt", ".vtt": "vtt", ".json": "json"}
"""What an output file holds by the ending of its name, where no option says it."""


def check_text(text: str) -> str:
    """Callback of `--prompt-text`: bytes that are not UTF-8 come as lone surrogates."""
    if re.search("[\ud800-\udfff]", text):
        raise typer.BadParameter("the text is not UTF-8")
    return text


def transcribe(
    ctx: typer.Context,
    audio: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="AUDIO...",
            help="A recording of any format; - for standard input. With --output-dir many: files, "
            "folders, s3://BUCKET/PREFIX, @LIST of these, .jsonl manifests.",
            show_default=False,
        ),
    ] = None,
    model: ModelOpt = DEFAULT_STT.name,
    dtype: opt.DTypeOpt = None,
    cpu: opt.CpuOpt = False,
    weights: opt.WeightsOpt = None,
    kv: opt.KvOpt = Quant.NONE,
    timestamps: opt.TimestampsOpt = False,
    timing: Annotated[
        Literal["server", "python"],
        typer.Option("--timing", help="Word times as moshi-server or as Kyutai's script."),
    ] = "server",
    vad: Annotated[
        bool, typer.Option("--vad", help="Show where turns end (semantic VAD).")
    ] = False,
    prompt_text: Annotated[
        str,
        typer.Option(
            "--prompt-text",
            metavar="TEXT",
            callback=check_text,
            help="Words that came before, to fix the spelling.",
        ),
    ] = "",
    prompt_audio: Annotated[
        Path | None,
        typer.Option(
            "--prompt-audio",
            metavar="FILE",
            readable=False,
            help="A recording that came before; not transcribed.",
        ),
    ] = None,
    url: opt.UrlOpt = None,
    api_key: opt.ServerKeyOpt = None,
    times_real_time: Annotated[
        float,
        typer.Option(
            "--rtf", metavar="X", min=0, help="Send to --url at X times real time; 0: no limit."
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
        typer.Option("--mic", help="Send the microphone to --url, until Ctrl-C."),
    ] = False,
    device: opt.SoundDeviceOpt = None,
    srt: Annotated[bool, typer.Option("--srt", help="Print SubRip captions.")] = False,
    vtt: Annotated[bool, typer.Option("--vtt", help="Print WebVTT captions.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            readable=False,
            help="Write to a .txt, .srt, .vtt or .json file.",
        ),
    ] = None,
    output_dir: Annotated[
        str | None,
        typer.Option(
            "--output-dir",
            metavar="DIR",
            help="Transcribe many into a folder or s3://…; again: continue.",
        ),
    ] = None,
    run_dir: opt.RunDirOpt = None,
    formats: Annotated[
        str,
        typer.Option("--format", metavar="LIST", help="Of --output-dir: txt,srt,vtt,json."),
    ] = "txt",
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            metavar="N",
            min=1,
            help="Recordings of --output-dir at a time. Default: 32; CPU: 4.",
        ),
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(
            "--devices",
            metavar="LIST",
            help="A process for each of these, as in 0,1 or all; or cpu.",
        ),
    ] = None,
    ray: opt.RayOpt = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", metavar="N", min=1, help="Workers of --ray. Default: one for each card."
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard", metavar="I/N", help="Take part I of N of the recordings, from 1 on."
        ),
    ] = None,
    json: opt.JsonOpt = False,
    quiet: opt.QuietOpt = False,
    debug: opt.DebugOpt = False,
) -> None:
    """Transcribe recordings, on this machine or through a server.

    Runs the embedded engine (pip install 'dsmops[worker]') in the best dtype of the card, which is
    f32 on a CPU. Channels are mixed. Ctrl-C or SIGTERM ends the recording there: what was read
    until then is transcribed. A second one ends the command. --mic needs pip install 'dsmops[mic]'.

    From a pipe, words come while it runs: of WAV, AU, FLAC, Ogg and MP3, and with ffmpeg of WebM,
    Matroska, AAC and MPEG-TS too. An MP4 is read when the pipe ends, if its index comes last.

    \b
    Examples:
      dsmops transcribe speech.mp3
      dsmops transcribe --model config-stt-en_fr-lowram-sm75.toml --timestamps --vad meeting.flac
      dsmops transcribe -o talk.srt talk.mkv
      dsmops transcribe --url ws://127.0.0.1:8080 --rtf 0 speech.mp3
      dsmops transcribe --url ws://127.0.0.1:8080 --mic
      dsmops transcribe calls/ more.mp3 --output-dir transcripts --format txt,srt
    """
    if output_dir is not None:
        refuse_with_many(
            {
                "--url": url is not None,
                "--mic": mic,
                "--output": output is not None,
                "--srt": srt,
                "--vtt": vtt,
                "--prompt-text": bool(prompt_text),
                "--prompt-audio": prompt_audio is not None,
                "--cpu with --devices": cpu and devices is not None,
                "--ray with --devices": ray is not None and devices is not None,
                "--workers without --ray": workers is not None and ray is None,
                "standard input": "-" in (audio or []),
            }
        )
        out = Reporter.open("transcribe-many", json=json, quiet=quiet, debug=debug)
        model = opt.prepared_model(ctx, model, _TYPES, out)
        _transcribe_many(
            audio or [],
            parse_output_dir(output_dir, run_dir),
            _Embedded(model, dtype, cpu, weights, kv, timing=timing),
            out,
            formats=_formats(formats),
            batch_size=batch_size,
            shard=parse_shard(shard),
            executor=_executor(devices, ray, workers),
            timestamps=timestamps,
            vad=vad,
        )
        return
    from contextlib import ExitStack

    from dsmops.cli.views.transcription import rendered, transcription_notes, written
    from dsmops.files import replace_atomically
    from dsmops.operations.speech.interruption import exit_code

    recording = _only(
        audio or [],
        {
            "--run-dir": run_dir,
            "--shard": shard,
            "--batch-size": batch_size,
            "--devices": devices,
            "--ray": ray,
            "--workers": workers,
        },
    )
    output = None if output == Path("-") else output
    _check_usage(recording, output, model, prompt_audio, url, mic=mic, device=device)
    _check_finite({"--rtf": times_real_time, "--send-ahead": send_ahead})
    form = _form(output, srt=srt, vtt=vtt, json=json)
    embedded = _Embedded(model, dtype, cpu, weights, kv, prompt_text, prompt_audio, timing)
    if url is not None:
        refuse_with_url(
            {**asdict(embedded), "model": _typed_model(ctx, model)}, asdict(_Embedded())
        )
    out = Reporter.open("transcribe", json=json, quiet=quiet, debug=debug)
    if url is None:
        embedded = replace(embedded, model=opt.prepared_model(ctx, model, _TYPES, out))
    # Words of a live stream go to stdout as they come, where nothing else is printed of them.
    shows_words = form == "text" and output is None and not (timestamps or vad or mic)
    on_word = out.stream if shows_words else out.live
    with ExitStack() as stack:
        # Opened before the work, which may take long, so that a target that cannot be written is
        # reported at once.
        file = stack.enter_context(replace_atomically(output)) if output is not None else None
        if url is None:
            result = embedded.transcribe(_path(recording), output, on_word, out)
        elif mic:
            result = _transcribe_microphone(url, api_key, device, on_word, out)
        else:
            result = _transcribe_remotely(
                _path(recording), url, api_key, times_real_time, send_ahead, on_word, out
            )
        text = rendered(result, form, timestamps=timestamps, vad=vad)
        if file is not None:
            file.write(text.encode())
    for note in transcription_notes(result, vad=vad):
        out.note(note)
    shown = Document(text.removesuffix("\n")) if output is None else written(result, output)
    out.result(result, [] if out.has_streamed else [shown])
    if result.incomplete is not None:
        out.error(result.incomplete.error())
        raise typer.Exit(result.incomplete.exit_code)
    if result.signal is not None:
        raise typer.Exit(exit_code(result.signal))


def _typed_model(ctx: typer.Context, model: str) -> str:
    """Return the model, or the default where only the user's settings name one."""
    return model if opt.typed(ctx, "model") else DEFAULT_STT.name


def _only(audio: Sequence[str], of_many: Mapping[str, object]) -> str | None:
    """Return the one AUDIO of a command without --output-dir, None where there is none."""
    if len(audio) > 1:
        raise typer.BadParameter(
            f"{len(audio)} recordings need a folder: --output-dir DIR", param_hint="AUDIO"
        )
    for option, value in of_many.items():
        if value is not None:
            raise typer.BadParameter("it belongs to --output-dir", param_hint=option)
    return audio[0] if audio else None


def _formats(names: str) -> tuple[str, ...]:
    from dsmops.operations.speech.many.transcribing import FORMATS

    chosen = tuple(dict.fromkeys(name.strip() for name in names.split(",")))
    if unknown := [name for name in chosen if name not in FORMATS]:
        raise typer.BadParameter(
            f"{unknown[0]!r} is not one of {', '.join(FORMATS)}", param_hint="--format"
        )
    return chosen


def _transcribe_many(
    inputs: Sequence[str],
    into: tuple[Path, str | None],
    embedded: _Embedded,
    out: Reporter,
    *,
    formats: tuple[str, ...],
    batch_size: int | None,
    shard: tuple[int, int],
    executor: Executor,
    timestamps: bool,
    vad: bool,
) -> None:
    from functools import partial

    from dsmops.cli.views.transcription_run import of_ending, run_notes, show_run
    from dsmops.operations.speech.many.transcribing import Job
    from dsmops.operations.speech.many.work import Shard

    if not inputs:
        raise typer.BadParameter("name recordings, folders or lists", param_hint="AUDIO")
    for name in inputs:
        require_file_or_object(name, "AUDIO")

    folder, bucket = into
    job = Job(
        tuple(inputs),
        folder,
        embedded.model,
        formats,
        partial(of_ending, timestamps=timestamps, vad=vad),
        dtype=embedded.dtype,
        cpu=embedded.cpu,
        quantised=Quantised(embedded.weights, embedded.kv),
        timing=embedded.timing,
        batch_size=batch_size,
        shard=Shard(*shard),
        bucket=bucket,
    )
    run = executor.run(job, out.progress())
    for note in run_notes(run):
        out.note(note)
    out.result(run, show_run(run))
    if run.failures:
        raise typer.Exit(1)


def _executor(devices: str | None, ray: str | None, workers: int | None) -> Executor:
    from dsmops.operations.speech.many.executors import InProcess, LocalProcesses, WorkerDevice

    if ray is not None:
        from dsmops.operations.speech.many.ray_actors import RayActors

        return RayActors(ray, workers)
    if devices is None:
        return InProcess()
    from dsmops.operations.speech.serving import parse_devices

    return LocalProcesses(
        [WorkerDevice(device.name, device.env) for device in parse_devices(devices)]
    )


@dataclass(frozen=True, slots=True)
class _Embedded:
    """Options of the embedded engine, which a server decides by itself."""

    model: str = DEFAULT_STT.name
    dtype: ComputeDType | None = None
    cpu: bool = False
    weights: Quant | None = None
    kv: Quant = Quant.NONE
    prompt_text: str = ""
    prompt_audio: Path | None = None
    timing: str = "server"

    def transcribe(
        self,
        source: Path | None,
        output: Path | None,
        on_word: Callable[[str], None],
        out: Reporter,
    ) -> Transcription:
        from dsmops.operations.speech.transcription import Prompting, transcribe

        return transcribe(
            source,
            self.model,
            dtype=self.dtype,
            cpu=self.cpu,
            quantised=Quantised(self.weights, self.kv),
            prompting=Prompting(self.prompt_text, self.prompt_audio),
            timing=self.timing,
            target=output,
            on_word=on_word,
            progress=out.progress(),
        )


def _transcribe_remotely(
    source: Path | None,
    url: str,
    api_key: str | None,
    speed: float,
    send_ahead_s: float,
    on_word: Callable[[str], None],
    out: Reporter,
) -> Transcription:
    from dsmops.operations.speech.remote_transcription import transcribe_remotely

    return transcribe_remotely(
        source,
        url,
        api_key=api_key,
        speed=speed,
        send_ahead_s=send_ahead_s,
        on_word=on_word,
        progress=out.progress(),
    )


def _transcribe_microphone(
    url: str,
    api_key: str | None,
    device: str | None,
    on_word: Callable[[str], None],
    out: Reporter,
) -> Transcription:
    from dsmops.operations.speech.remote_transcription import transcribe_microphone

    return transcribe_microphone(url, on_word, api_key=api_key, device=device, on_note=out.note)


def _path(audio: str | None) -> Path | None:
    """Return the path of AUDIO, None for standard input."""
    return None if audio in (None, "-") else expanded(str(audio))


def _check_usage(
    audio: str | None,
    output: Path | None,
    model: str,
    prompt_audio: Path | None,
    url: str | None,
    *,
    mic: bool,
    device: str | None,
) -> None:
    """Usage errors for arguments that exclude or need each other."""
    if (not audio) != mic or (mic and url is None):
        raise typer.BadParameter(
            "name one AUDIO, or give --mic together with --url", param_hint="AUDIO"
        )
    if device is not None and not mic:
        raise typer.BadParameter("it chooses the microphone of --mic", param_hint="--device")
    if audio:
        require_no_address(audio, "AUDIO")
    if prompt_audio == Path("-"):
        raise typer.BadParameter(
            "standard input is for AUDIO alone; name a file", param_hint="--prompt-audio"
        )
    read = {
        "recording": _path(audio) or Path("/dev/stdin"),
        "prompt": prompt_audio,
        "model": Path(model),
        "model's config": Path(model, "config.json"),
    }
    require_other_file("--output", output, read)


def _check_finite(numbers: Mapping[str, float]) -> None:
    for option, number in numbers.items():
        if not isfinite(number):
            raise typer.BadParameter(f"{number} is not a finite number", param_hint=option)


def _form(output: Path | None, *, srt: bool, vtt: bool, json: bool) -> Form:
    """Return what is written: the form that an option names, else that of the output's ending."""
    if sum((json, srt, vtt)) > 1:
        raise typer.BadParameter(
            "--json, --srt and --vtt are three forms of one output; choose one"
        )
    if srt or vtt:
        return "srt" if srt else "vtt"
    return _FORMS.get(output.suffix.lower(), "text") if output is not None else "text"


def evaluate(
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="MANIFEST|AUDIO|TEXT",
            help="A manifest, a dataset, or one recording or transcript.",
        ),
    ],
    reference: Annotated[
        Path | None,
        typer.Argument(
            metavar="[REFERENCE]",
            readable=False,
            help="The reference text of one recording or transcript.",
            show_default=False,
        ),
    ] = None,
    model: ModelOpt = DEFAULT_STT.name,
    dtype: opt.DTypeOpt = None,
    cpu: opt.CpuOpt = False,
    weights: opt.WeightsOpt = None,
    kv: opt.KvOpt = Quant.NONE,
    url: opt.UrlOpt = None,
    api_key: opt.ServerKeyOpt = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            metavar="N",
            min=1,
            help="Recordings at a time. Default: 32; CPU: 4; --url: 1.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", metavar="N", min=1, help="Use only the first N utterances."),
    ] = None,
    normalizer: Annotated[
        Literal["english", "basic", "none"],
        typer.Option("--normalizer", help="Rules for English, for any language, or none."),
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
    json: opt.JsonOpt = False,
    quiet: opt.QuietOpt = False,
    debug: opt.DebugOpt = False,
) -> None:
    """Measure the word error rate on recordings with known text.

    Rates are defined as in the published figures. A manifest is JSON Lines, CSV or TSV. With
    REFERENCE, one recording is transcribed and scored, or a finished transcript (.txt, .srt, .vtt,
    .json) is scored without a model. With --url, audio goes to the server as fast as it answers.

    hf-dataset://org/name[:config[:split]] names a dataset; some have an alias.

    Exits 1 if a recording could not be read. Such a recording is named and not counted.

    \b
    Examples:
      dsmops evaluate manifest.jsonl
      dsmops evaluate calls.tsv --model config-stt-en_fr-lowram-sm75.toml --dtype f16 -o f16.jsonl
      dsmops evaluate french.csv --normalizer basic --limit 100
      dsmops evaluate librispeech.clean --model stt-2.6b-en
      dsmops evaluate talk.mp3 talk.reference.txt
      dsmops evaluate calls.tsv --url ws://127.0.0.1:8080 --batch-size 8
    """
    from contextlib import ExitStack
    from json import dumps

    from dsmops.cli.views.evaluation import evaluation_notes, show_evaluation
    from dsmops.files import replace_atomically
    from dsmops.operations.speech.evaluation import evaluate as run_evaluation
    from dsmops.operations.speech.evaluation import evaluate_transcript
    from dsmops.report.document import to_json
    from dsmops.scoring import Normalizer, is_transcript

    require_no_address(source.removeprefix("hf-dataset://"), "MANIFEST")
    if url is not None:
        refuse_with_url(
            {
                "model": _typed_model(ctx, model),
                "dtype": dtype,
                "cpu": cpu,
                "weights": weights,
                "kv": kv,
            },
            {"model": DEFAULT_STT.name, "dtype": None, "cpu": False, "weights": None, "kv": "none"},
        )
    what = "manifest" if reference is None else "recording"
    require_other_file("--output", output, {what: Path(source), "reference": reference})
    out = Reporter.open("evaluate", json=json, quiet=quiet, debug=debug)
    with ExitStack() as stack:
        # Opened before the work, which may take hours, so that a target that cannot be written is
        # reported at once.
        lines = stack.enter_context(replace_atomically(output)) if output is not None else None
        if reference is not None and is_transcript(Path(source)):
            report = evaluate_transcript(
                expanded(source), reference, normal_form=Normalizer(normalizer)
            )
        elif url is not None:
            from dsmops.operations.speech.remote_evaluation import evaluate_remotely

            report = evaluate_remotely(
                source,
                url,
                reference=reference,
                api_key=api_key,
                streams=batch_size or 1,
                limit=limit,
                normal_form=Normalizer(normalizer),
                target=output,
                progress=out.progress(),
            )
        else:
            report = run_evaluation(
                source,
                opt.prepared_model(ctx, model, _TYPES, out),
                reference=reference,
                dtype=dtype,
                cpu=cpu,
                quantised=Quantised(weights, kv),
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
    for note in evaluation_notes(report):
        out.note(note)
    out.result(report, show_evaluation(report))
    if report.incomplete is not None:
        out.error(report.incomplete.error())
        raise typer.Exit(report.incomplete.exit_code)
    if report.totals.failed:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("transcribe", cls=RayCommand, rich_help_panel=SERVE)(transcribe)
    app.command("evaluate", cls=FileCommand, rich_help_panel=SERVE)(evaluate)
