"""The command `voices`."""

from __future__ import annotations

from typing import Annotated

import typer

from dsmops import user_settings
from dsmops.cli import values
from dsmops.cli.help import SERVE
from dsmops.cli.options import DebugOpt, JsonOpt, QuietOpt, prepared_model
from dsmops.models import DEFAULT_TTS
from dsmops.report import Reporter


def voices(
    ctx: typer.Context,
    pattern: Annotated[
        str,
        typer.Argument(metavar="TEXT", help="List names that contain this text only."),
    ] = "",
    model: Annotated[
        str,
        typer.Option(
            "--model",
            metavar="SOURCE",
            envvar=user_settings.TTS_MODEL,
            autocompletion=values.models,
            help="Model of the voices: published name, tiny, hf://org/repo, .toml.",
        ),
    ] = DEFAULT_TTS.name,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """List the voices of a text-to-speech model.

    The published model's voices are on the hub, which is asked for their names; nothing is
    downloaded but the model's config. `synthesize --voice` takes each name.

    \b
    Examples:
      dsmops voices --model tiny
      dsmops voices happy
      dsmops voices --model assets/fp16/tts-1.6b-en_fr.fp16.toml
    """
    from dsmops.operations.models.tts import list_voices

    out = Reporter.open("voices", json=json, quiet=quiet, debug=debug)
    model = prepared_model(ctx, model, ("Py",), out)
    listed = list_voices(model, pattern, progress=out.progress())
    lines = [
        f"{name} (default)" if name == listed.default_voice else name for name in listed.voices
    ]
    out.result(listed, lines or ["no voice matches"])


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("voices", rich_help_panel=SERVE)(voices)
