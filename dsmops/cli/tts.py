"""The command that speaks: `synthesize`."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dsmops.cli.help import SERVE
from dsmops.cli.options import DebugOpt, DTypeOpt, JsonOpt, QuietOpt, ServerKeyOpt
from dsmops.cli.stt import CpuOpt
from dsmops.models import DEFAULT_TTS
from dsmops.report import Reporter

if TYPE_CHECKING:
    from dsmops.operations.speech.synthesis_result import Sink


def synthesize(
    text: Annotated[
        str,
        typer.Argument(
            metavar="TEXT|FILE|-",
            help="A file of that name, UTF-8, where there is one; - for standard input; else words.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Argument(
            metavar="OUT",
            readable=False,
            help="Where the sound goes: a .wav, .flac, .ogg or .opus file; - for standard output, as it comes.",
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "--config",
            metavar="SOURCE",
            help="A published model's name, hf://org/repo, a folder with a config.json, or a moshi-server .toml.",
        ),
    ] = DEFAULT_TTS.name,
    dtype: DTypeOpt = None,
    cpu: CpuOpt = False,
    voice: Annotated[
        list[str] | None,
        typer.Option(
            "--voice",
            metavar="NAME",
            help="A voice of the folder, a .safetensors file, or hf://org/repo/voice. Default: the config's. Twice: paragraphs in turn.",
        ),
    ] = None,
    voices: Annotated[
        str | None,
        typer.Option(
            "--voices",
            metavar="FOLDER",
            help="Where voices are: a folder, or hf://org/repo. Default: the config's.",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", metavar="N", min=0, max=2**63 - 1, help="Say it as another run did."
        ),
    ] = None,
    cfg: Annotated[
        float | None,
        typer.Option(
            "--cfg",
            metavar="X",
            min=0,
            help="How closely the voice is followed, 1 to 4. Default: 2, or the config's.",
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            "--temperature",
            metavar="X",
            min=0,
            help="0 is the likeliest each time. Default: 0.6, or the config's.",
        ),
    ] = None,
    n_q: Annotated[
        int | None,
        typer.Option(
            "--n-q",
            metavar="N",
            min=1,
            help="Codebooks that the model makes; fewer are faster and sound worse. Default: the config's, or all.",
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            metavar="URL",
            help="Let this moshi-server do it, like ws://127.0.0.1:8080; the text goes there.",
        ),
    ] = None,
    api_key: ServerKeyOpt = None,
    play: Annotated[
        bool,
        typer.Option(
            "--play", help="Play it instead of OUT, as it comes (pip install 'dsmops[mic]')."
        ),
    ] = False,
    form: Annotated[
        Literal["wav", "raw"],
        typer.Option("--format", help="Of OUT -: a WAV, or its 16-bit samples alone, 24 kHz mono."),
    ] = "wav",
    timestamps: Annotated[
        bool, typer.Option("--timestamps", help="Show each word with its start and stop.")
    ] = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Synthesize speech from a text, here or on a server.

    Runs the embedded engine (pip install 'dsmops[worker]'), in the dtype that the card serves best,
    f32 on a CPU. The name of a file that is there is that file. OUT appears whole or not at all,
    and replaces one that is there. Write pauses as <break time="0.5s"/>.

    \b
    Examples:
      dsmops synthesize "Hello, how are you?" hello.wav
      dsmops synthesize chapter.txt chapter.flac --voice expresso/ex03-ex01_happy_001_channel1_334s.wav --seed 7
      echo "Good morning." | dsmops synthesize - - --format raw | aplay -f S16_LE -r 24000
      dsmops synthesize --url ws://127.0.0.1:8080 --play "Hello, how are you?"
    """
    from dsmops.cli.views.synthesis import show_synthesis, synthesis_note
    from dsmops.operations.speech.remote_synthesis import synthesize_remotely
    from dsmops.operations.speech.synthesis import Wish, read_text
    from dsmops.operations.speech.synthesis import synthesize as speak

    names = tuple(voice or ())
    _check_usage(
        text, output, voices=names, url=url, play=play, form=form, shows=json or timestamps
    )
    if url is not None:
        _refuse_what_the_server_decides(
            model=model,
            dtype=dtype,
            cpu=cpu,
            voices=voices,
            seed=seed,
            cfg=cfg,
            temperature=temperature,
            n_q=n_q,
        )
    out = Reporter.open("synthesize", json=json, quiet=quiet, debug=debug)
    words = read_text(text)
    if words == text and re.fullmatch(r"\S+\.\w+|[^\s/]*/\S*", text):
        out.note(f"note: there is no file {text}, so these are the words that are said")
    sink, target = _sink(output, form, out), None if output == Path("-") else output
    try:
        if url is not None:
            said = synthesize_remotely(
                words,
                sink,
                url,
                voice=names[0] if names else None,
                api_key=api_key,
                target=target,
                progress=out.progress(),
            )
        else:
            said = speak(
                words,
                sink,
                model,
                Wish(names, voices, seed, cfg, temperature, n_q),
                dtype=dtype,
                cpu=cpu,
                target=target,
                progress=out.progress(),
            )
    except KeyboardInterrupt:
        out.note(f"stopped; {target} is as it was" if target is not None else "stopped")
        raise typer.Exit(130) from None
    out.note(synthesis_note(said))
    if output is None or target is not None:
        out.result(said, show_synthesis(said, timestamps=timestamps))
    if said.incomplete is not None:
        out.error(said.incomplete.error())
        raise typer.Exit(said.incomplete.exit_code)


def _check_usage(
    text: str,
    output: Path | None,
    *,
    voices: tuple[str, ...],
    url: str | None,
    play: bool,
    form: str,
    shows: bool,
) -> None:
    """Usage errors for what cannot be meant."""
    to_stdout = output == Path("-")
    if (output is None) != play:
        raise typer.BadParameter("name one OUT, or give --play", param_hint="OUT")
    if to_stdout and shows:
        raise typer.BadParameter(
            "standard output carries the sound; leave away --json and --timestamps, or name a file",
            param_hint="OUT",
        )
    if to_stdout and sys.stdout.isatty():
        raise typer.BadParameter(
            "standard output is a terminal; send it into a file or a program", param_hint="OUT"
        )
    if form != "wav" and not to_stdout:
        raise typer.BadParameter(
            "only standard output, OUT -, has a choice; a file's name says its format",
            param_hint="--format",
        )
    if "" in voices:
        raise typer.BadParameter(
            "it is empty; leave it away for the default voice", param_hint="--voice"
        )
    if len(voices) > (1 if url is not None else 2):
        most = "a server speaks in one voice" if url is not None else "a dialogue has two voices"
        raise typer.BadParameter(f"{most}, and {len(voices)} are named", param_hint="--voice")
    source = Path(os.path.expanduser(text))  # noqa: PTH111 the method fails at ~name where nobody has that name
    if (
        output is not None
        and os.path.exists(output)  # noqa: PTH110 false for any name
        and os.path.exists(source)  # noqa: PTH110
        and output.samefile(source)
    ):
        raise typer.BadParameter("OUT is the text itself; name another file", param_hint="OUT")


def _refuse_what_the_server_decides(**chosen: object) -> None:
    """Refuse options that mean nothing to a server: it has its model, its voices and its way of speaking."""
    usual = {"model": DEFAULT_TTS.name, "cpu": False}
    named = [
        f"--{name.replace('_', '-')}" for name, value in chosen.items() if value != usual.get(name)
    ]
    if named:
        raise typer.BadParameter(f"with --url the server decides; leave away {' and '.join(named)}")


def _sink(output: Path | None, form: str, out: Reporter) -> Sink:
    """Return what takes the sound to a loudspeaker, to standard output or into a file."""
    from dsmops.audio import Samples, play, write

    def to_loudspeaker(blocks: Iterator[Samples]) -> None:
        late = play(blocks)
        if late:
            out.note(
                f"warning: the sound stopped {late} times to wait for more; a smaller --n-q is faster, a file needs no hurry"
            )

    def to_stdout(blocks: Iterator[Samples]) -> None:
        try:
            write("-", blocks, raw=form == "raw")
        except BrokenPipeError:
            # Whoever read stdout has heard enough.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            out.note("note: whoever read standard output has left; the rest was not said")

    if output is None:
        return to_loudspeaker
    return to_stdout if output == Path("-") else partial(write, output)


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("synthesize", rich_help_panel=SERVE)(synthesize)
