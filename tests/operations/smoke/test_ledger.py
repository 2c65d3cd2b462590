"""The ledger: each check once, in order, with a reason where it did not run."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest

from dsmops.errors import InputError
from dsmops.operations.smoke import CHECKS, CheckResult, CheckStatus
from dsmops.operations.smoke.checks import CheckFailed, DoesNotApply, Ledger
from dsmops.operations.smoke.report import Backend, make_report


async def fine() -> str:
    return "fine"


async def broken() -> str:
    raise CheckFailed("it broke", "mend it")


async def beside_the_point() -> str:
    raise DoesNotApply("there is none")


async def hanging() -> str:
    await asyncio.sleep(60)
    return "too late"


def ledger(
    work: Callable[[Ledger], Awaitable[object]], timeout_s: float = 10.0
) -> list[CheckResult]:
    async def main() -> list[CheckResult]:
        made = Ledger(timeout_s)
        await work(made)
        return made.results

    return asyncio.run(main())


def test_each_outcome_is_kept_with_its_words() -> None:
    """What a check raises, errors of other packages included, becomes its evidence."""

    async def refused() -> str:
        raise InputError("no such file", hint="Name another.")

    async def work(made: Ledger) -> None:
        await made.run("config-lint", fine)
        await made.run("server-binary", beside_the_point)
        await made.run("port-free", refused)

    found = ledger(work)
    assert [(check.status, check.evidence, check.hint) for check in found] == [
        (CheckStatus.PASSED, "fine", ""),
        (CheckStatus.SKIPPED, "does not apply: there is none", ""),
        (CheckStatus.FAILED, "no such file", "Name another."),
    ]
    assert all(check.runbook == f"runbooks/smoke-test.md#{check.name}" for check in found)


def test_a_failure_blocks_what_needs_it_and_that_blocks_what_needs_that() -> None:
    """With the reason. One that does not apply blocks nothing; modules block only themselves."""

    async def work(made: Ledger) -> None:
        await made.run("listening", beside_the_point)
        await made.run("ready", broken, module="one")
        await made.run("ready", fine, module="two")
        for module in ("one", "two"):
            await made.run("step", fine, module=module)
            await made.run("marker", fine, module=module)
        await made.run("memory", fine)

    assert [(check.module, check.status.value, check.evidence) for check in ledger(work)[1:]] == [
        ("one", "failed", "it broke"),
        ("two", "passed", "fine"),
        ("one", "blocked", "could not run: `ready` failed"),
        ("one", "blocked", "could not run: `step` could not run"),
        ("two", "passed", "fine"),
        ("two", "passed", "fine"),
        (None, "blocked", "could not run: `step` could not run"),
    ]


@pytest.mark.parametrize(
    ("after", "words"),
    [
        ([], ""),
        (["step"], " 1 check could not run."),
        (["step", "marker"], " 2 checks could not run."),
    ],
)
def test_the_verdict_counts_what_could_not_run(after: list[str], words: str) -> None:
    """It says nothing where every check ran."""

    async def work(made: Ledger) -> None:
        await made.run("ready", broken)
        for name in after:
            await made.run(name, fine)

    report = make_report(ledger(work), {}, backend=Backend.EMBEDDED, seconds=1.0)
    assert report.verdict == f"Failed at `ready`: it broke.{words}"


@pytest.mark.parametrize(
    ("key", "evidence", "hint"),
    [
        ("sk-471100", "the <key>_server said k", "Try <key> again: ?auth_id=k"),
        ("k", "the sk-471100_server said <key>", "Try sk-471100 again: ?auth_id=<key>"),
    ],
)
def test_keys_are_not_repeated(key: str, evidence: str, hint: str) -> None:
    """Wherever they appear in evidence; short ones where they stand alone."""

    async def telling() -> str:
        raise CheckFailed("the sk-471100_server said k", "Try sk-471100 again: ?auth_id=k")

    async def work(made: Ledger) -> None:
        made.hide(key, None, "")
        await made.run("listening", telling)

    (check,) = ledger(work)
    assert (check.evidence, check.hint) == (evidence, hint)


def test_a_bug_of_a_check_costs_no_report() -> None:
    """It fails, says so, and the others run."""

    async def buggy() -> str:
        raise ZeroDivisionError("oh")

    async def work(made: Ledger) -> None:
        await made.run("config-lint", buggy)
        await made.run("port-released", fine, always=True)

    found = ledger(work)
    assert found[0].evidence == "the check itself failed: ZeroDivisionError: oh"
    assert found[1].status is CheckStatus.PASSED


def test_a_time_limit_of_the_work_is_not_that_of_the_check() -> None:
    """The system knows time limits, too: of a file on a network, say."""

    async def stale() -> str:
        raise TimeoutError(110, "Connection timed out")

    (check,) = ledger(lambda made: made.run("config-lint", stale))
    assert (check.status, check.evidence) == (
        CheckStatus.FAILED,
        "timed out: [Errno 110] Connection timed out",
    )


def test_a_check_has_its_own_time() -> None:
    """And says how much."""
    (check,) = ledger(lambda made: made.run("listening", hanging, within_s=0.05))
    assert (check.status, check.evidence) == (CheckStatus.FAILED, "no answer within 0.05 s")


def test_the_whole_test_has_its_time() -> None:
    """The running check fails, the next ones cannot run, and cleaning up runs all the same."""

    async def work(made: Ledger) -> None:
        await made.run("listening", hanging)
        await made.run("wrong-key", fine)
        await made.run("config-lint", fine)
        await made.run("port-released", fine, always=True)

    evidence = [check.evidence for check in ledger(work, 0.05)]
    assert evidence == [
        "the time limit of 0.05 s for the whole test was over",
        "could not run: `listening` failed",
        "could not run: the time limit of 0.05 s was over",
        "fine",
    ]


def test_needs_come_before_what_needs_them() -> None:
    """Or a check would be judged by one that has not run yet."""
    order = list(CHECKS)
    for kind in CHECKS.values():
        for need in kind.needs:
            assert order.index(need) < order.index(kind.name)


@pytest.mark.parametrize(("before", "after"), list(pairwise(CHECKS)))
def test_questions_are_questions(before: str, after: str) -> None:
    """Two checks never ask the same one."""
    assert CHECKS[before].question.endswith("?")
    assert CHECKS[before].question != CHECKS[after].question
