"""The command from text to speech: `synthesize`."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dsmops import user_settings
from dsmops.cli import options as opt
from dsmops.cli import values
from dsmops.cli.arguments import (
    FileCommand,
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
from dsmops.models import DEFAULT_TTS
from dsmops.report import Reporter

if TYPE_CHECKING:
    from dsmops.operations.speech.synthesis import SynthesisSettings
    from dsmops.operations.speech.synthesis_result import Sink, Synthesis


def synthesize(
    ctx: typer.Context,
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="TEXT [OUT]",
            help="A text, a file, or - for standard input; and a .wav, .flac, .ogg, .opus or .mp3 "
            "file, or - for stdout. With --output-dir many: files, folders, s3://BUCKET/PREFIX, "
            "@LIST with a text a line, .jsonl manifests.",
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "--config",
            metavar="SOURCE",
            envvar=user_settings.TTS_MODEL,
            autocompletion=values.models,
            help="Name of a published model, hf://org/repo, folder or .toml.",
        ),
    ] = DEFAULT_TTS.name,
    dtype: opt.DTypeOpt = None,
    cpu: opt.CpuOpt = False,
    weights: opt.WeightsOpt = None,
    kv: opt.KvOpt = Quant.NONE,
    voice: Annotated[
        list[str] | None,
        typer.Option(
            "--voice",
            metavar="NAME",
            help="A voice's name, file or hf:// address; twice: a dialogue.",
        ),
    ] = None,
    voices: Annotated[
        str | None,
        typer.Option("--voices", metavar="FOLDER", help="Folder of voices, or hf://org/repo."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", metavar="N", min=0, max=2**63 - 1, help="Repeat the run with this seed."
        ),
    ] = None,
    cfg: Annotated[
        float | None,
        typer.Option(
            "--cfg", metavar="X", min=0, help="Follow the voice more closely: 1 to 4. Default: 2."
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            "--temperature", metavar="X", min=0, help="Vary more; 0: never. Default: 0.6."
        ),
    ] = None,
    n_q: Annotated[
        int | None,
        typer.Option(
            "--n-q", metavar="N", min=1, help="Make fewer codebooks: faster, sounds worse."
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse unknown characters instead of skipping.")
    ] = False,
    url: opt.UrlOpt = None,
    api_key: opt.ServerKeyOpt = None,
    play: Annotated[
        bool, typer.Option("--play", help="Play the sound as it comes, without OUT.")
    ] = False,
    device: opt.SoundDeviceOpt = None,
    output_dir: Annotated[
        str | None,
        typer.Option(
            "--output-dir",
            metavar="DIR",
            help="Synthesize many into a folder or s3://…; again: continue.",
        ),
    ] = None,
    run_dir: opt.RunDirOpt = None,
    form: Annotated[
        Literal["wav", "raw", "flac", "ogg", "opus", "mp3"],
        typer.Option("--format", help="Of OUT -: wav or raw; of --output-dir: all but raw."),
    ] = "wav",
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            metavar="N",
            min=1,
            help="Texts of --output-dir at a time. Default: 32; CPU: 1.",
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option("--shard", metavar="I/N", help="Take part I of N of the texts, from 1 on."),
    ] = None,
    timestamps: opt.TimestampsOpt = False,
    json: opt.JsonOpt = False,
    quiet: opt.QuietOpt = False,
    debug: opt.DebugOpt = False,
) -> None:
    """Synthesize speech from a text, here or on a server.

    Runs the embedded engine (pip install 'dsmops[worker]') in the best dtype of the card, which is
    f32 on a CPU. TEXT may also be the name of a file. OUT appears whole or not at all, and replaces
    an existing file. Write pauses as <break time="0.5s"/>. Characters that the model does not know
    are skipped and reported. Ctrl-C keeps the sound made so far. --play needs pip install
    'dsmops[mic]'.

    \b
    Examples:
      dsmops synthesize "Hello, how are you?" hello.wav
      dsmops synthesize chapter.txt chapter.mp3 --voice unmute-prod-website/default_voice.wav
      echo "Good morning." | dsmops synthesize - - --format raw | aplay -f S16_LE -r 24000
      dsmops synthesize --url ws://127.0.0.1:8080 --play "Hello, how are you?"
      dsmops synthesize @sentences.txt --output-dir sounds --format flac
    """
    from dsmops.cli.views.synthesis import show_synthesis, synthesis_notes

    names = tuple(voice or ())
    _check_voices(names, url)
    embedded = _Embedded(
        model, dtype, cpu, weights, kv, voices, seed, cfg, temperature, n_q, strict
    )
    if output_dir is not None:
        refuse_with_many(
            {
                "--url": url is not None,
                "--play": play,
                "--device": device is not None,
                "--timestamps": timestamps,
                "--format raw": form == "raw",
                "standard input": "-" in words,
            }
        )
        out = Reporter.open("synthesize-many", json=json, quiet=quiet, debug=debug)
        _synthesize_many(
            words,
            parse_output_dir(output_dir, run_dir),
            replace(embedded, model=opt.prepared_model(ctx, model, ("Py",), out)),
            out,
            names=names,
            form=form,
            batch_size=batch_size,
            shard=parse_shard(shard),
        )
        return
    text, output = _text_and_output(
        words, {"--run-dir": run_dir, "--shard": shard, "--batch-size": batch_size}
    )
    _check_output(text, output, play=play, form=form, shows=json or timestamps, device=device)
    if url is not None:
        chosen = asdict(embedded)
        if not opt.typed(ctx, "model"):
            # The user's settings may name one; it is for this machine.
            chosen["model"] = DEFAULT_TTS.name
        refuse_with_url(chosen, asdict(_Embedded()))
    out = Reporter.open("synthesize", json=json, quiet=quiet, debug=debug)
    content = _content(text, out)
    target = None if output == Path("-") else output
    if url is None:
        embedded = replace(embedded, model=opt.prepared_model(ctx, model, ("Py",), out))
    sink = _sink(output, form, device, out)
    try:
        if url is None:
            result = embedded.synthesize(content, sink, names, target, out)
        else:
            result = _synthesize_remotely(content, sink, url, api_key, names, target, out)
    except (KeyboardInterrupt, SystemExit) as exc:
        out.note(f"stopped; {target} is as it was" if target is not None else "stopped")
        code = exc.code if isinstance(exc, SystemExit) else 130
        raise typer.Exit(int(code or 0)) from None
    for note in synthesis_notes(result):
        out.note(note)
    if output is None or target is not None:
        out.result(result, show_synthesis(result, timestamps=timestamps))
    if result.incomplete is not None:
        if result.incomplete.code == "interrupted":
            kept = f"; {target} holds the first {result.audio_s:.1f} s"
            out.note("stopped" if target is None else f"stopped{kept}")
        else:
            out.error(result.incomplete.error())
        raise typer.Exit(result.incomplete.exit_code)


def _content(text: str, out: Reporter) -> str:
    """Return the text; say so where it looks like the name of a file and there is none."""
    from dsmops.operations.speech.texts import read_text

    content = read_text(text)
    if content == text and re.fullmatch(r"\S+\.\w+|[^\s/]*/\S*", text):
        out.note(f"note: there is no file {text}: these words are synthesized")
    return content


def _text_and_output(
    words: Sequence[str], of_many: Mapping[str, object]
) -> tuple[str, Path | None]:
    """Return TEXT and OUT of a command without --output-dir."""
    if len(words) > 2:
        raise typer.BadParameter(
            f"a text and one OUT are taken, and {len(words)} are named; many texts need a folder: "
            "--output-dir DIR",
            param_hint="OUT",
        )
    for option, value in of_many.items():
        if value is not None:
            raise typer.BadParameter("it belongs to --output-dir", param_hint=option)
    return words[0], Path(words[1]) if len(words) == 2 else None


def _synthesize_many(
    inputs: Sequence[str],
    into: tuple[Path, str | None],
    embedded: _Embedded,
    out: Reporter,
    *,
    names: tuple[str, ...],
    form: str,
    batch_size: int | None,
    shard: tuple[int, int],
) -> None:
    from dsmops.cli.views.synthesis_run import show_synthesis_run, synthesis_run_notes
    from dsmops.operations.speech.many.synthesizing import SynthesisJob, synthesize_many
    from dsmops.operations.speech.many.work import Shard

    for name in inputs:
        require_file_or_object(name, "TEXT")
    folder, bucket = into
    job = SynthesisJob(
        tuple(inputs),
        folder,
        embedded.model,
        form,
        embedded.settings(names),
        dtype=embedded.dtype,
        cpu=embedded.cpu,
        quantised=Quantised(embedded.weights, embedded.kv),
        batch_size=batch_size,
        shard=Shard(*shard),
        bucket=bucket,
    )
    run = synthesize_many(job, progress=out.progress())
    for note in synthesis_run_notes(run):
        out.note(note)
    out.result(run, show_synthesis_run(run))
    if run.failures:
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class _Embedded:
    """Options of the embedded engine, which a server decides by itself."""

    model: str = DEFAULT_TTS.name
    dtype: ComputeDType | None = None
    cpu: bool = False
    weights: Quant | None = None
    kv: Quant = Quant.NONE
    voices: str | None = None
    seed: int | None = None
    cfg: float | None = None
    temperature: float | None = None
    n_q: int | None = None
    strict: bool = False

    def settings(self, names: tuple[str, ...]) -> SynthesisSettings:
        """Return how texts are synthesized in these voices."""
        from dsmops.operations.speech.synthesis import SynthesisSettings

        return SynthesisSettings(
            names, self.voices, self.seed, self.cfg, self.temperature, self.n_q, self.strict
        )

    def synthesize(
        self, text: str, sink: Sink, names: tuple[str, ...], target: Path | None, out: Reporter
    ) -> Synthesis:
        from dsmops.operations.speech.synthesis import synthesize

        return synthesize(
            text,
            sink,
            self.model,
            self.settings(names),
            dtype=self.dtype,
            cpu=self.cpu,
            quantised=Quantised(self.weights, self.kv),
            target=target,
            progress=out.progress(),
        )


def _synthesize_remotely(
    text: str,
    sink: Sink,
    url: str,
    api_key: str | None,
    names: tuple[str, ...],
    target: Path | None,
    out: Reporter,
) -> Synthesis:
    from dsmops.operations.speech.remote_synthesis import synthesize_remotely

    return synthesize_remotely(
        text,
        sink,
        url,
        voice=names[0] if names else None,
        api_key=api_key,
        target=target,
        progress=out.progress(),
    )


def _check_output(
    text: str, output: Path | None, *, play: bool, form: str, shows: bool, device: str | None
) -> None:
    """Usage errors for outputs that exclude each other."""
    to_stdout = output == Path("-")
    if (output is None) != play:
        raise typer.BadParameter("name one OUT, or give --play", param_hint="OUT")
    if device is not None and not play:
        raise typer.BadParameter("it chooses the loudspeaker of --play", param_hint="--device")
    if to_stdout and shows:
        raise typer.BadParameter(
            "standard output carries the sound; omit --json and --timestamps, or name a file",
            param_hint="OUT",
        )
    if to_stdout and sys.stdout.isatty():
        raise typer.BadParameter(
            "standard output is a terminal; send it into a file or a program", param_hint="OUT"
        )
    if form not in ("wav", "raw"):
        raise typer.BadParameter(
            "it applies to --output-dir only; a file's name says its format", param_hint="--format"
        )
    if form != "wav" and not to_stdout:
        raise typer.BadParameter(
            "it applies to OUT - only; a file's name says its format", param_hint="--format"
        )
    if not re.search(r"\s", text):
        require_no_address(text, "TEXT")
    source = expanded(text)
    require_other_file("OUT", output, {"text": source})


def _check_voices(names: tuple[str, ...], url: str | None) -> None:
    """Usage errors for too many voices, and for an empty name."""
    if "" in names:
        raise typer.BadParameter("it is empty; omit it for the default voice", param_hint="--voice")
    if len(names) > (1 if url is not None else 2):
        most = "a server uses one voice" if url is not None else "a dialogue has two voices"
        raise typer.BadParameter(f"{most}, and {len(names)} are named", param_hint="--voice")


def _sink(output: Path | None, form: str, device: str | None, out: Reporter) -> Sink:
    """Return what plays the sound, or writes it to standard output or into a file."""
    from dsmops.audio import Samples, play, write

    def to_loudspeaker(blocks: Iterator[Samples]) -> None:
        late = play(blocks, device=device)
        if late:
            out.note(
                f"warning: the sound stopped {late} times to wait for more; a smaller --n-q is "
                "faster, a file needs no hurry"
            )

    def to_stdout(blocks: Iterator[Samples]) -> None:
        try:
            write("-", blocks, raw=form == "raw")
        except BrokenPipeError:
            # The reader of stdout needs no more.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            out.note("note: the reader of standard output has left; the rest was not synthesized")

    if output is None:
        return to_loudspeaker
    return to_stdout if output == Path("-") else partial(write, output)


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("synthesize", cls=FileCommand, rich_help_panel=SERVE)(synthesize)
