"""What a server took, beside what was planned."""

import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from dsmops.config.load import Config, read_config
from dsmops.config.memory import MIB
from dsmops.devices import Runtime
from dsmops.gpu import simulate
from dsmops.gpu.readings import Process
from dsmops.operations.smoke.checks import CheckFailed, DoesNotApply
from dsmops.operations.smoke.family import family, main_memory
from dsmops.operations.smoke.memory import MemoryWatch, judge_memory
from dsmops.operations.smoke.simulate import Simulation
from tests.support.smoke import random_models

CARD = simulate(["t4"]).visible[0].device


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, ...]:
    """A speech-to-text and a text-to-speech config, as prepared for a T4."""
    folder = tmp_path_factory.mktemp("prepared")
    models = random_models(folder / "source")
    reports = [
        Simulation().prepare(model, folder / f"{number}.fp16.safetensors")
        for number, model in enumerate(models)
    ]
    return tuple(read_config(report.config_path) for report in reports)


def seen(peak_bytes: int | None) -> MemoryWatch:
    watch = MemoryWatch()
    watch.device, watch.peak_bytes = CARD, peak_bytes
    return watch


def planned_mib(config: Config) -> int:
    """The plan in the evidence, to 5 MiB."""
    told = judge_memory(config, seen(MIB), Runtime.EMBEDDED, os.getpid())
    found = re.search(r"([\d.]+) (MiB|GiB) planned", told)
    assert found is not None
    amount, unit = found.groups()
    return round(float(amount) * (1024 if unit == "GiB" else 1))


@pytest.mark.parametrize("number", [0, 1])
def test_what_was_planned_may_be_taken_and_no_more(
    configs: tuple[Config, ...], number: int
) -> None:
    """With 150 MiB to spare; the figures are shown either way."""
    told = judge_memory(configs[number], seen(100 * MIB), Runtime.EMBEDDED, os.getpid())
    assert told.startswith("100 MiB of Tesla T4 at most, ")
    planned = planned_mib(configs[number])
    judge_memory(configs[number], seen((planned + 140) * MIB), Runtime.EMBEDDED, os.getpid())
    with pytest.raises(CheckFailed, match="more"):
        judge_memory(configs[number], seen((planned + 160) * MIB), Runtime.EMBEDDED, os.getpid())


def test_both_together_share_the_runtime(configs: tuple[Config, ...], tmp_path: Path) -> None:
    """The CUDA context of a process counts once."""
    hears, speaks = configs
    both = tmp_path / "both.toml"
    both.write_text(hears.text + "\n" + speaks.text[speaks.text.index("[modules.") :])
    assert planned_mib(read_config(both)) < planned_mib(hears) + planned_mib(speaks) - 800


def test_without_a_card_nothing_is_judged(configs: tuple[Config, ...]) -> None:
    """Nor for what cannot be planned; main memory is shown."""
    with pytest.raises(DoesNotApply, match=r"no GPU was used.* of main memory"):
        judge_memory(configs[0], MemoryWatch(), Runtime.EMBEDDED, os.getpid())
    with pytest.raises(DoesNotApply, match="no plan exists"):
        judge_memory(configs[1], seen(MIB), Runtime.MOSHI_SERVER, os.getpid())


@pytest.mark.skipif(sys.platform != "linux", reason="processes are read from /proc")
def test_all_processes_of_a_server_count() -> None:
    """Those that it started, and those that these started, on the card and in main memory."""
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE) as parent:
        until_s = time.monotonic() + 10
        while len(own := family(parent.pid)) < 2 and time.monotonic() < until_s:
            time.sleep(0.01)
        found = main_memory(parent.pid)
        assert found is not None
        assert found[1] == 2
        assert found[0] > 2 * MIB
        watch = MemoryWatch()
        processes = tuple(
            Process(pid, "python", number * MIB)
            for number, pid in enumerate([os.getpid(), *own], start=1)
        )
        report = replace(
            simulate(["t4"]).visible[0], processes=processes, memory_used_bytes=99 * MIB
        )
        assert watch._used_by(parent.pid, report) == (2 + 3) * MIB
        parent.communicate(b"\n")
