"""Commands about checkpoint files: `inspect`, `convert`, `verify`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dsmops.cli import values
from dsmops.cli.help import PREPARE
from dsmops.cli.options import (
    DebugOpt,
    DryRunOpt,
    JsonOpt,
    KvOpt,
    NoDigestOpt,
    NoFsyncOpt,
    QuietOpt,
    ReportOpt,
    VerifyOpt,
    WeightsOpt,
    dtype_parser,
    typed,
)
from dsmops.dtypes import CONVERSION_TARGETS, PLAIN, Quant, Quantised, StorageDType
from dsmops.report import Reporter

if TYPE_CHECKING:
    from dsmops.checkpoint import Checkpoint, LossReport
    from dsmops.operations.speech.numerics import NumericsPlan
    from dsmops.operations.speech.numerics_verdict import NumericsReport
    from dsmops.report import Block

SourceArg = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A .safetensors file, a folder, an index file, or hf://org/repo/file.",
    ),
]
ToDTypeOpt = Annotated[
    StorageDType,
    typer.Option(
        "--dtype",
        metavar="DTYPE",
        autocompletion=values.conversion_dtypes,
        parser=dtype_parser(StorageDType.parse),
        help=f"What BF16 tensors become: {' or '.join(to.option for to in CONVERSION_TARGETS)}"
        " (also float16, fp16, ...).",
    ),
]
# The values of checkpoint.OverflowPolicy, spelled out so that start-up does not load the package.
Policy = Literal["fail", "clamp", "keep-f32"]


def inspect(
    source: SourceArg,
    scan: Annotated[
        bool,
        typer.Option(
            "--scan", help="Read all values too, and say what converting to F16 would lose."
        ),
    ] = False,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Show the tensors, dtypes and model of a checkpoint.

    Reads only the headers, unless --scan is given. Of a file on the hub only the headers are
    downloaded.

    \b
    Examples:
      dsmops inspect model.safetensors
      dsmops inspect --scan hf://kyutai/stt-1b-en_fr-candle/model.safetensors
      dsmops inspect --tensors --json sharded-model/
    """
    from dsmops.checkpoint import open_checkpoint
    from dsmops.checkpoint.gguf import is_gguf, read_gguf_header
    from dsmops.checkpoint.inspection import inspect_checkpoint, inspect_headers
    from dsmops.cli.views.checkpoint import show_inspection
    from dsmops.hub import is_hub_source
    from dsmops.operations.models.sources import source_headers

    out = Reporter.open("inspect", json=json, quiet=quiet, debug=debug)
    path = None if is_hub_source(source) and not scan else at_hand(source, out)
    if path is None:
        found = inspect_headers(source, source_headers(source, progress=out.progress()))
    elif is_gguf(path):
        if scan:
            raise typer.BadParameter("--scan counts the values of safetensors files, not of GGUF")
        found = inspect_headers(source, {path.name: read_gguf_header(path)})
    else:
        checkpoint = open_checkpoint(path)
        found = inspect_checkpoint(
            source, checkpoint, forecast=_forecast(checkpoint, out) if scan else None
        )
    out.result(found, show_inspection(found, all_tensors=tensors))


def at_hand(source: str, out: Reporter, *, download: bool = True) -> Path:
    """Return the local path of `source`.

    What has to be downloaded is shown first, with its sizes.
    """
    from dsmops.operations.models.sources import local_checkpoint

    return local_checkpoint(source, download=download, progress=out.progress())


def without_blas_threads() -> None:
    """Keep numpy's BLAS, which is not used here, from starting a thread for each core.

    To be called before numpy is imported: those threads spin for 70 ms.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def _forecast(checkpoint: Checkpoint, out: Reporter) -> LossReport:
    without_blas_threads()
    from dsmops.checkpoint import scan

    return scan(checkpoint, StorageDType.F16, progress=out.progress())


def convert(
    ctx: typer.Context,
    source: SourceArg,
    target: Annotated[
        Path,
        typer.Argument(
            metavar="TARGET",
            readable=False,
            help="The .safetensors file to write, or a folder for a sharded source.",
        ),
    ],
    dtype: ToDTypeOpt = StorageDType.F16,
    weights: Annotated[
        Quant,
        typer.Option(
            "--weights", help="int8: write linear layers in int8, as `export --to moshi` does."
        ),
    ] = Quant.NONE,
    on_overflow: Annotated[
        Policy,
        typer.Option(
            "--on-overflow",
            help=(
                "What to do with values beyond the range of F16: stop, hold at 65504, or keep the"
                " tensor F32."
            ),
        ),
    ] = "fail",
    keep_f32: Annotated[
        list[str] | None,
        typer.Option(
            "--keep-f32",
            metavar="GLOB",
            help="Store BF16 tensors whose names match as F32. Repeatable.",
        ),
    ] = None,
    report: ReportOpt = None,
    verify: VerifyOpt = False,
    no_digest: NoDigestOpt = False,
    no_fsync: NoFsyncOpt = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help=(
                "Convert even where the target is up to date, and replace a file that dsmops did"
                " not make."
            ),
        ),
    ] = False,
    dry_run: DryRunOpt = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Convert a bf16 checkpoint to f16 or f32, and report losses.

    Needs little memory, whatever the size. At any moment the target is absent, the old file, or
    complete. Names, order, shapes, metadata and tensors of other dtypes stay unchanged. A target
    that is up to date is not written again. A file that dsmops did not make is not replaced. Exits
    1 when --verify finds a difference.

    --weights int8 is `dsmops export --to moshi`, with its report (dsmops.export/1): the embedded
    worker and the package `moshi` load the file, moshi-server does not. --dtype, --on-overflow and
    --keep-f32 do not apply to it.

    \b
    Examples:
      dsmops convert model.safetensors model.fp16.safetensors
      dsmops convert --weights int8 model.safetensors model.int8.safetensors
      dsmops convert --dry-run --dtype f32 model.safetensors model.fp32.safetensors
      dsmops convert hf://kyutai/stt-2.6b-en-candle/model.safetensors stt.safetensors
    """
    without_blas_threads()
    if weights is Quant.INT8:
        others = {"dtype": "--dtype", "on_overflow": "--on-overflow", "keep_f32": "--keep-f32"}
        named = [option for name, option in others.items() if typed(ctx, name)]
        if named:
            raise typer.BadParameter(
                f"{' and '.join(named)} cannot be combined with int8, which stores the other"
                " tensors as F16",
                param_hint="--weights",
            )
        write_export(
            source,
            target,
            "moshi",
            "int8",
            Reporter.open("export", json=json, quiet=quiet, debug=debug),
            report=report,
            force=force,
            dry_run=dry_run,
            check=verify,
            digest=not no_digest,
            fsync=not no_fsync,
        )
        return
    from dsmops.checkpoint import OverflowPolicy, plan_conversion
    from dsmops.checkpoint.plan import require_apart
    from dsmops.checkpoint.result import carry_out
    from dsmops.cli.views.checkpoint import show_conversion
    from dsmops.files import replace_atomically

    out = Reporter.open("convert", json=json, quiet=quiet, debug=debug)
    path = at_hand(source, out, download=not dry_run)
    plan = plan_conversion(
        path, target, dtype, on_overflow=OverflowPolicy(on_overflow), keep_f32=keep_f32 or ()
    )
    if report is not None:
        require_apart(report, plan)
    # Opened first: a report that cannot be written is an error before the work.
    with nullcontext() if report is None else replace_atomically(report) as file:
        options = {
            "force": force,
            "dry_run": dry_run,
            "check": verify,
            "digest": not no_digest,
            "fsync": not no_fsync,
        }
        result = carry_out(plan, **options, progress=out.progress())
        if file is not None:
            file.write(f"{out.document(result)}\n".encode())
    out.result(result, show_conversion(result))
    if result.verification is not None and not result.verification.same:
        raise typer.Exit(1)


def write_export(
    source: str,
    target: Path,
    to: str,
    quant: str | None,
    out: Reporter,
    *,
    report: Path | None,
    force: bool,
    dry_run: bool,
    check: bool,
    digest: bool,
    fsync: bool,
) -> None:
    """Export for the program `to`, show what was done, and write it to `report` as well.

    With `check` the target is verified. Ends the command with exit code 1 where it differs.
    """
    from dsmops.checkpoint.export import Runtime, can_resume, plan_export
    from dsmops.checkpoint.export.outcome import carry_out
    from dsmops.checkpoint.plan import require_apart
    from dsmops.cli.views.export import show_export
    from dsmops.files import replace_atomically

    path = at_hand(source, out, download=not dry_run)
    plan = plan_export(path, target, Runtime(to), quant)
    if report is not None:
        require_apart(report, plan)
    # Opened first: a report that cannot be written is an error before the work.
    with nullcontext() if report is None else replace_atomically(report) as file:
        try:
            outcome = carry_out(
                plan,
                force=force,
                dry_run=dry_run,
                check=check,
                digest=digest,
                fsync=fsync,
                progress=out.progress(),
            )
        except (KeyboardInterrupt, SystemExit):
            if can_resume(plan):
                out.note("stopped; the same command goes on with the tensors that are left")
            raise
        if file is not None:
            file.write(f"{out.document(outcome)}\n".encode())
    out.result(outcome, show_export(outcome))
    if outcome.verification is not None and not outcome.verification.same:
        raise typer.Exit(1)


def verify(
    source: SourceArg,
    target: Annotated[
        Path,
        typer.Argument(
            metavar="TARGET", readable=False, help="What it was converted or exported to."
        ),
    ],
    numerics: Annotated[
        str | None,
        typer.Option(
            "--numerics",
            metavar="AUDIO",
            help="Run both on this recording too; - for standard input.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="SOURCE",
            autocompletion=values.models,
            help=(
                "With --numerics, whose config, tokenizer and Mimi to take, named as for"
                " `transcribe`. Default: what lies beside SOURCE."
            ),
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            metavar="FILE",
            readable=False,
            help="With --numerics, the spoken text: shows word error rates.",
        ),
    ] = None,
    cpu: Annotated[
        bool,
        typer.Option(
            "--cpu",
            help="With --numerics, compute on the CPU. Default: CUDA device 0 where there is one.",
        ),
    ] = False,
    weights: WeightsOpt = None,
    kv: KvOpt = Quant.NONE,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Compare a converted or exported file with its source.

    Needs no record, so files that other programs converted can be checked too. Exits 1 when
    something differs, and names the first different element of each tensor. For an exported file
    the bytes are compared. If another program wrote it, the errors of its values are compared.

    --numerics (pip install 'dsmops[worker]') runs the source in f32 and the target in its own
    dtype. It shows the error of the logits, the agreement of the tokens, the range of the
    activations in each layer, and where NaN or infinity begin. With --reference it also shows the
    word error rate before and after. Exits 1 when the answer is no. --weights and --kv keep the
    target in int8 while it runs.

    \b
    Examples:
      dsmops verify model.safetensors model.fp16.safetensors
      dsmops verify --json sharded-model/ sharded-model-fp16/
      dsmops verify --numerics speech.mp3 --model stt-1b-en_fr a.safetensors b.safetensors
      dsmops verify --numerics speech.mp3 --reference speech.txt a.safetensors b.safetensors
      dsmops verify --numerics speech.mp3 --kv int8 a.safetensors b.safetensors
    """
    without_blas_threads()
    from dsmops.checkpoint import verify as compare
    from dsmops.checkpoint.export.verification import is_export, is_loadable_export, verify_export
    from dsmops.cli.views.checkpoint import show_verification
    from dsmops.report.document import to_json

    quantised = Quantised(weights, kv)
    if numerics is None and (model is not None or reference or cpu or quantised != PLAIN):
        raise typer.BadParameter(
            "--model, --reference, --cpu, --weights and --kv say how --numerics AUDIO is run; name"
            " a recording"
        )
    out = Reporter.open("verify", json=json, quiet=quiet, debug=debug)
    path = at_hand(source, out)
    exported = is_export(target)
    if numerics is not None and exported and not is_loadable_export(target):
        raise typer.BadParameter(
            "--numerics runs what the worker loads, and this is a file for another program"
        )
    plan = (
        None
        if numerics is None
        else _numerics_plan(source, (path, target), numerics, model, reference, out)
    )
    found = (verify_export if exported else compare)(path, target, progress=out.progress())
    report, lines = (None, ()) if plan is None else _run_numerics(plan, out, quantised, cpu=cpu)
    out.result({**to_json(found), "numerics": report}, chain(show_verification(found), lines))
    if not found.same or (report is not None and report.verdict == "no"):
        raise typer.Exit(1)


def _numerics_plan(
    source: str,
    files: tuple[Path, Path],
    audio: str,
    model: str | None,
    reference: Path | None,
    out: Reporter,
) -> NumericsPlan:
    from dsmops.operations.speech.numerics import plan_numerics

    return plan_numerics(
        source,
        files,
        "-" if audio == "-" else Path(audio).expanduser(),
        model=model,
        reference=reference,
        progress=out.progress(),
    )


def _run_numerics(
    plan: NumericsPlan, out: Reporter, quantised: Quantised, *, cpu: bool
) -> tuple[NumericsReport | None, Iterable[Block]]:
    from dsmops.cli.views.numerics import show_numerics
    from dsmops.operations.speech.numerics import compare_numerics

    if not plan.same_layout:
        return None, ["The two were not run: they do not hold the same tensors."]
    report = compare_numerics(plan, cpu=cpu, quantised=quantised, progress=out.progress())
    return report, show_numerics(report)


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("inspect", rich_help_panel=PREPARE)(inspect)
    app.command("convert", rich_help_panel=PREPARE)(convert)
    app.command("verify", rich_help_panel=PREPARE)(verify)
