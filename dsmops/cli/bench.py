"""`bench`: how many streams a server carries."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from dsmops.cli import values
from dsmops.cli.arguments import require_other_file
from dsmops.cli.help import CHECK
from dsmops.cli.options import DebugOpt, JsonOpt, QuietOpt, api_key_option, dtype_parser
from dsmops.dtypes import ComputeDType, Quant, Quantised
from dsmops.models import DEFAULT_STT
from dsmops.report import Reporter

if TYPE_CHECKING:
    from dsmops.operations.bench import EngineRequest, Levels, Limits, LoadTest


_FORMS = (".json", ".html", ".svg", ".png")
"""Endings of the files that a result can be written to."""


def bench(
    url: Annotated[
        str | None,
        typer.Argument(metavar="[URL]", help="Server, like ws://127.0.0.1:8080."),
    ] = None,
    streams: Annotated[
        str,
        typer.Option(
            "--streams", metavar="N", help="64, or 1,8,64, or 1..400 to search for the most."
        ),
    ] = "1..64",
    tts: Annotated[bool, typer.Option("--tts", help="Test text-to-speech.")] = False,
    seconds: Annotated[
        float,
        typer.Option(
            "--seconds",
            metavar="S",
            min=0,
            max=86400,
            help="Measure each number for S seconds; 0: one text each.",
        ),
    ] = 20.0,
    warm_up: Annotated[
        float,
        typer.Option(
            "--warm-up", metavar="S", min=0, max=3600, help="Stream S seconds before measuring."
        ),
    ] = 3.0,
    audio: Annotated[
        list[Path] | None,
        typer.Option(
            "--audio",
            metavar="FILE",
            readable=False,
            help="Send this recording. Repeatable. Default: a shipped one.",
        ),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            "--text",
            metavar="TEXT|FILE",
            help="With --tts: a text, or a file with one a line. Repeatable.",
        ),
    ] = None,
    voice: Annotated[
        str | None, typer.Option("--voice", metavar="NAME", help="With --tts: the voice.")
    ] = None,
    api_key: Annotated[str | None, api_key_option("Key that the server takes.")] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes",
            metavar="N",
            min=1,
            max=256,
            help="Client processes. Default: one for 100 streams, half the cores.",
        ),
    ] = None,
    max_lag: Annotated[
        float | None,
        typer.Option("--max-lag", metavar="MS", min=1, help="Limit: p99 of the lag. Default: 160."),
    ] = None,
    min_kept: Annotated[
        float | None,
        typer.Option(
            "--min-kept",
            metavar="PERCENT",
            min=0,
            max=100,
            help="Limit: frames answered. Default: 99.",
        ),
    ] = None,
    max_first_audio: Annotated[
        float | None,
        typer.Option(
            "--max-first-audio",
            metavar="MS",
            min=1,
            help="Limit: p95 of the first audio. Default: 1000.",
        ),
    ] = None,
    max_underruns: Annotated[
        int | None,
        typer.Option(
            "--max-underruns", metavar="N", min=0, help="Limit: gaps in speech. Default: 0."
        ),
    ] = None,
    max_errors: Annotated[
        int | None,
        typer.Option(
            "--max-errors", metavar="N", min=0, help="Limit: streams that failed. Default: 0."
        ),
    ] = None,
    max_jitter: Annotated[
        float,
        typer.Option(
            "--max-jitter",
            metavar="MS",
            min=1,
            help="How late the client itself may be (p99).",
        ),
    ] = 10.0,
    engine: Annotated[
        bool,
        typer.Option("--engine", help="Time the embedded engine's step here; without URL."),
    ] = False,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="NAME",
            autocompletion=values.models,
            help="With --engine: model. Repeatable. Default: stt-1b-en_fr.",
        ),
    ] = None,
    dtype: Annotated[
        list[ComputeDType] | None,
        typer.Option(
            "--dtype",
            metavar="DTYPE",
            autocompletion=values.compute_dtypes,
            parser=dtype_parser(ComputeDType.parse),
            help="With --engine: bf16, f16, f32. Repeatable. Default: best.",
        ),
    ] = None,
    weights: Annotated[
        list[Quant] | None,
        typer.Option(
            "--weights",
            help="With --engine: layers in int8 or not. Repeatable. Default: as in the file.",
        ),
    ] = None,
    kv: Annotated[
        list[Quant] | None,
        typer.Option(
            "--kv", help="With --engine: keys and values in int8 or not. Repeatable. Default: none."
        ),
    ] = None,
    quality: Annotated[
        bool,
        typer.Option(
            "--quality",
            help="With --engine: compare logits with f32, and the words of a loaded model.",
        ),
    ] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="With --engine: keep the rows that -o FILE.json holds."),
    ] = False,
    n_q: Annotated[
        int | None,
        typer.Option("--n-q", metavar="N", min=1, help="With --engine: codebooks of a TTS model."),
    ] = None,
    cpu: Annotated[
        bool, typer.Option("--cpu", help="With --engine: on the CPU, also with a GPU.")
    ] = False,
    device: Annotated[
        int, typer.Option("--device", metavar="N", min=0, help="With --engine: CUDA ordinal.")
    ] = 0,
    profile: Annotated[
        Path | None,
        typer.Option(
            "--profile",
            metavar="FILE",
            readable=False,
            help="With --engine: write the profile for plan --profile.",
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against", metavar="OLD.json", readable=False, help="Compare with an older result."
        ),
    ] = None,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            readable=False,
            help="Write a .json, .html, .svg or .png file. Repeatable.",
        ),
    ] = None,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Find how many streams a server carries.

    Opens more and more paced streams to any moshi-server until a limit fails. Each stream sends a
    frame every 80 ms by the clock. The client measures its own delays, so that a slow client is not
    blamed on the server. Run it on a host with free cores.

    Exit codes: 0 measured, and every given limit held; 1 a given limit failed; 5 the client was too
    slow for a result; 6 the server failed. Ctrl-C keeps what was measured.

    \b
    Examples:
      dsmops bench ws://127.0.0.1:8080 --streams 1..400
      dsmops bench ws://10.0.0.5:8080 --api-key KEY --streams 64 --seconds 60 --max-lag 100
      dsmops bench ws://127.0.0.1:8080 --streams 1,8,64 -o new.json -o new.html --against old.json
      dsmops bench ws://127.0.0.1:8080 --tts --streams 1,32,64 --seconds 0
      dsmops bench --engine --model stt-1b-en_fr --dtype f16 --streams 1,64,400
      dsmops bench --engine --model tiny --weights none --weights int8 --quality -o grid.json
    """
    levels = _levels(streams)
    on_engine = {
        "--model": model,
        "--dtype": dtype,
        "--weights": weights,
        "--kv": kv,
        "--quality": quality,
        "--resume": resume,
        "--n-q": n_q,
        "--cpu": cpu,
        "--device": device,
        "--profile": profile,
    }
    if engine:
        _check_engine_usage(
            {
                "URL": url,
                "--tts": tts,
                "--audio": audio,
                "--text": text,
                "--voice": voice,
                "--against": against,
            },
            output or [],
            resume=resume,
        )
        from dsmops.operations.bench import EngineRequest

        engine_request = EngineRequest(
            tuple(dict.fromkeys(model or [DEFAULT_STT.name])),
            tuple(dict.fromkeys(dtype or ())),
            levels,
            cpu,
            device,
            n_q,
            profile=profile,
            quantised=tuple(
                dict.fromkeys(
                    Quantised(stored, keys)
                    for stored in cast("list[Quant | None]", weights) or [None]
                    for keys in kv or [Quant.NONE]
                )
            ),
            quality=quality,
        )
        out = Reporter.open("bench", json=json, quiet=quiet, debug=debug)
        _bench_engine(engine_request, output or [], out, resume=resume)
        return
    for name, chosen in on_engine.items():
        if chosen:
            raise typer.BadParameter("it needs --engine", param_hint=name)
    if url is None:
        raise typer.BadParameter("name the server, or give --engine", param_hint="URL")
    _check_usage(tts=tts, audio=audio, text=text, voice=voice, seconds=seconds, warm_up=warm_up)
    stt_limits = {"--max-lag": max_lag, "--min-kept": min_kept}
    tts_limits = {"--max-first-audio": max_first_audio, "--max-underruns": max_underruns}
    for name, value in (stt_limits if tts else tts_limits).items():
        if value is not None:
            raise typer.BadParameter(
                "it applies to speech-to-text only" if tts else "it needs --tts", param_hint=name
            )
    given = (*stt_limits.values(), *tts_limits.values(), max_errors)
    has_limit = any(value is not None for value in given)
    _check_forms(output or ())
    for file in output or ():
        require_other_file("--output", file, {"older result": against})
    out = Reporter.open("bench", json=json, quiet=quiet, debug=debug)
    from dsmops.cli.views.bench import level_line, show_bench
    from dsmops.files import replace_atomically
    from dsmops.operations.bench import compare, read_old, read_recordings, read_texts
    from dsmops.operations.bench.running import LoadRequest, run_load_test
    from dsmops.report.charts import require_charts

    request = LoadRequest(
        url,
        levels,
        read_texts(text or ()) if tts else read_recordings(audio or ()),
        _limits(max_lag, min_kept, max_first_audio, max_underruns, max_errors, max_jitter),
        api_key,
        voice,
        seconds,
        warm_up,
        processes,
    )
    if any(file.suffix.lower() != ".json" for file in output or ()):
        require_charts()
    old = None if against is None else read_old(against, "tts" if tts else "stt")
    with ExitStack() as stack:
        # Opened before the work, so that a target that cannot be written is reported at once.
        files = [stack.enter_context(replace_atomically(file)) for file in output or ()]
        test, signal_code = run_load_test(
            request,
            progress=out.progress(),
            on_level=lambda level: out.note(level_line(level)),
        )
        comparison = None if old is None else compare(test, old, str(against))
        for file, opened in zip(output or (), files, strict=True):
            form = file.suffix.lower()
            if form == ".json":
                document = out.document({**_as_mapping(test), "comparison": comparison})
                opened.write(f"{document}\n".encode())
            else:
                from dsmops.cli.views.bench_report import render

                opened.write(render(test, comparison, form))
    out.result({**_as_mapping(test), "comparison": comparison}, show_bench(test, comparison))
    _end(test, out, signal_code, has_limit=has_limit)


def _check_forms(output: Sequence[Path]) -> None:
    for file in output:
        if file.suffix.lower() not in _FORMS:
            raise typer.BadParameter(
                f"{file} must end in {', '.join(_FORMS[:-1])} or {_FORMS[-1]}",
                param_hint="--output",
            )


def _check_engine_usage(others: dict[str, object], output: Sequence[Path], *, resume: bool) -> None:
    """Usage errors for options that a server needs, and for files."""
    for name, value in others.items():
        if value:
            raise typer.BadParameter("--engine measures this machine", param_hint=name)
    _check_forms(output)
    if resume and len([file for file in output if file.suffix.lower() == ".json"]) != 1:
        raise typer.BadParameter("it needs one -o FILE.json to go on with", param_hint="--resume")


def _bench_engine(
    request: EngineRequest, output: Sequence[Path], out: Reporter, *, resume: bool
) -> None:
    """Measure the embedded engine, and show and write the result: a .json file after each row."""
    from dsmops.cli.views.bench import engine_line, show_engine
    from dsmops.cli.views.bench_report import render_engine
    from dsmops.files import replace_atomically, write_text_atomically
    from dsmops.operations.bench import EngineTest, read_rows, run_engine_test
    from dsmops.report.charts import require_charts

    documents = [file for file in output if file.suffix.lower() == ".json"]
    drawn = [file for file in output if file not in documents]
    if drawn:
        require_charts()
    if resume:
        request = replace(request, kept=read_rows(documents[0], request))

    def save(test: EngineTest) -> None:
        for file in documents:
            write_text_atomically(file, f"{out.document(test)}\n")

    def on_row(test: EngineTest) -> None:
        out.note(engine_line(test.rows[-1]))
        save(test)

    with ExitStack() as stack:
        files = [stack.enter_context(replace_atomically(file)) for file in drawn]
        test = run_engine_test(request, progress=out.progress(), on_row=on_row)
        save(test)
        for path, opened in zip(drawn, files, strict=True):
            opened.write(render_engine(test, path.suffix.lower()))
    out.result(test, show_engine(test))
    if test.interrupted:
        raise typer.Exit(130)


def _end(test: LoadTest, out: Reporter, signal_code: int | None, *, has_limit: bool) -> None:
    """End with the exit code of what was found."""
    from dsmops.errors import ResourceError
    from dsmops.operations.bench import Verdict

    if test.incomplete is not None:
        out.error(test.incomplete.error())
        raise typer.Exit(test.incomplete.exit_code)
    if signal_code is not None:
        raise typer.Exit(signal_code)
    verdicts = [level.verdict for level in test.levels]
    if Verdict.CLIENT_TOO_SLOW in verdicts:
        error = ResourceError(
            f"the client was too slow at {test.levels[-1].streams} streams: "
            f"its own jitter explains what failed",
            hint="Use more --processes, run it on another machine, or allow more --max-jitter.",
            code="client.slow",
        )
        out.error(error)
        raise typer.Exit(error.exit_code)
    if has_limit and Verdict.FAILED in verdicts:
        raise typer.Exit(1)


def _as_mapping(test: LoadTest) -> dict[str, object]:
    return {name: getattr(test, name) for name in test.__dataclass_fields__}


def _levels(text: str) -> Levels:
    from dsmops.operations.bench import parse_levels

    try:
        return parse_levels(text)
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="--streams") from exc


def _limits(
    max_lag: float | None,
    min_kept: float | None,
    max_first_audio: float | None,
    max_underruns: int | None,
    max_errors: int | None,
    max_jitter: float,
) -> Limits:
    from dsmops.operations.bench import Limits

    named = {
        "lag_p99_ms": max_lag,
        "kept_share": None if min_kept is None else min_kept / 100,
        "first_audio_p95_ms": max_first_audio,
        "underruns": max_underruns,
        "errors": max_errors,
    }
    given = {name: value for name, value in named.items() if value is not None}
    return Limits(**given, jitter_p99_ms=max_jitter)  # type: ignore[arg-type]


def _check_usage(
    *,
    tts: bool,
    audio: list[Path] | None,
    text: list[str] | None,
    voice: str | None,
    seconds: float,
    warm_up: float,
) -> None:
    """Usage errors for options that exclude each other."""
    if tts and audio:
        raise typer.BadParameter("--tts sends texts; use --text", param_hint="--audio")
    for name, value in (("--text", text), ("--voice", voice)):
        if value and not tts:
            raise typer.BadParameter("it needs --tts", param_hint=name)
    for name, number in (("--seconds", seconds), ("--warm-up", warm_up)):
        if not isfinite(number):
            raise typer.BadParameter(f"{number} is not a number of seconds", param_hint=name)
    if not tts and seconds < 1:
        raise typer.BadParameter("measure for a second at least", param_hint="--seconds")


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("bench", rich_help_panel=CHECK)(bench)
