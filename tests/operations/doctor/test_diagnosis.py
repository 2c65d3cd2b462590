"""A diagnosis as a whole, and the names that it can give."""

from __future__ import annotations

from pathlib import Path

from dsmops.config.lint import CODES
from dsmops.gpu import GpuReport
from dsmops.gpu import findings as gpu_findings
from dsmops.logs.failures import FAILURES
from dsmops.models import MODELS
from dsmops.operations.doctor import NAMES, Scope, diagnose
from tests.operations.doctor.conftest import found


def test_an_empty_folder_without_a_card_is_no_error(scope: Scope, bare: GpuReport) -> None:
    """Nothing is wrong with a machine that has nothing yet, and the diagnosis says what it could
    not see.
    """
    diagnosis = diagnose(scope, bare)
    assert (diagnosis.errors, diagnosis.warnings) == (0, 0)
    assert {"config-none", "checkpoint-none", "server-none", "log-none", "hub-offline"} <= found(
        diagnosis
    ).keys()
    assert len(diagnosis.not_seen) >= 5


def test_nothing_is_written(scope: Scope, bare: GpuReport) -> None:
    """Neither into the working directory nor into the home folder."""
    diagnose(scope, bare)
    assert list(scope.folder.rglob("*")) == []
    assert [path for path in Path.home().rglob("*") if path.is_file()] == []


def test_every_name_of_a_room_is_known() -> None:
    """What the lint, the log scan and the driver's verdicts can say is in the table."""
    assert {f"config-{code}" for code in CODES} | FAILURES.keys() <= NAMES
    source = Path(gpu_findings.__file__).read_text()
    codes = {code.split('"')[0] for code in source.split('"gpu.')[1:]}
    assert codes
    assert {f"gpu-{code.replace('_', '-')}" for code in codes} <= NAMES


def test_the_published_models_have_sizes() -> None:
    """What a download or a conversion takes is known for each."""
    from dsmops.operations.doctor.machine import _weight_bytes

    assert all(_weight_bytes(model) > 1 << 30 for model in MODELS.values())
