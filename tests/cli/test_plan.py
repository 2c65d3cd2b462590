"""`dsmops plan` as a user types it."""

import json
from pathlib import Path

import pytest

from dsmops.config.timing import PROFILE_SCHEMA
from tests.support.cli import dsmops


def test_the_answer_comes_first_and_the_split_adds_up() -> None:
    """Text names batch size and what limits it; the JSON split sums to what the total says, and
    fits.
    """
    assert "limited by" in dsmops("plan", "--simulate", "rtx2070").stdout.splitlines()[1]
    document = dsmops("plan", "--simulate", "rtx2070", "--json").document
    assert document["schema"] == "dsmops.plan/1"
    assert sum(document["memory"].values()) <= document["usable_bytes"]
    assert document["dtype"] == "F16"
    assert document["batch_size"] == min(document["memory_batch_size"], document["time_batch_size"])


def test_a_model_that_does_not_fit_exits_1_and_says_what_would() -> None:
    """The 2.6B model in f32 does not fit in 8 GiB; f16 or the 1B does."""
    run = dsmops("plan", "--model", "stt-2.6b-en", "--simulate", "rtx2070", "--dtype", "f32")
    assert run.code == 1
    assert "Would fit: --model stt-2.6b-en --dtype f16" in run.stdout


def test_options_change_the_plan() -> None:
    """A shorter context and a larger reserve move the memory bound in their directions."""
    bound = [
        dsmops("plan", "--simulate", "gtx1060", "--json", *extra).document["memory_batch_size"]
        for extra in ([], ["--context", "375"], ["--reserve", "1GiB"])
    ]
    assert bound[1] > bound[0] > bound[2]


def test_a_bare_capability_is_planned_cautiously() -> None:
    """`--simulate sm75` names no memory; the plan says so instead of guessing."""
    run = dsmops("plan", "--simulate", "sm75")
    assert run.code == 0
    assert "memory is unknown" in run.stdout


def test_a_measured_profile_is_used_when_there_is_one(tmp_path: Path) -> None:
    """A profile of this card in the state folder decides; one named by --profile too."""
    profile = {
        "schema": PROFILE_SCHEMA,
        "device_name": "Tesla T4",
        "model": "stt-1b-en_fr",
        "dtype": "f16",
        "runtime": "moshi-server",
        "points": [{"batch_size": 1, "step_p99_ms": 25}, {"batch_size": 20, "step_p99_ms": 60}],
    }
    folder = tmp_path / "state" / "dsmops" / "profiles"
    folder.mkdir(parents=True)
    (folder / "t4.json").write_text(json.dumps(profile))
    found = dsmops(
        "plan", "--simulate", "t4", "--json", env={"XDG_STATE_HOME": str(tmp_path / "state")}
    ).document
    named = dsmops("plan", "--simulate", "t4", "--json", "--profile", folder / "t4.json").document
    assert found["time_basis"] == named["time_basis"] == "measured profile"
    assert found["batch_size"] == named["batch_size"] == 20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "asked", "code", "fits", "answer"),
    [
        ("t4", 20, 0, True, "Yes, 20 streams: "),
        ("t4", 100, 1, False, "No, 100 streams: "),
        ("t4", 100_000, 1, False, "No, 100000 streams: "),
        ("sm75", 3, 1, None, "Unknown, 3 streams: "),
    ],
)
def test_a_batch_size_that_is_asked_about_gets_an_answer(
    spec: str, asked: int, code: int, fits: bool | None, answer: str
) -> None:
    """Exit code 0 means yes, 1 means no or unknown; the JSON holds memory and step of that size."""
    run = dsmops("plan", "--simulate", spec, "--batch-size", str(asked))
    assert run.code == code
    assert answer.replace("100000", "100,000") in run.stdout
    document = dsmops("plan", "--simulate", spec, "--batch-size", str(asked), "--json").document
    assert (document["asked"]["batch_size"], document["asked"]["fits"]) == (asked, fits)
    if fits:
        assert sum(document["asked"]["memory"].values()) <= document["usable_bytes"]
        assert document["asked"]["step_ms"] <= document["step_budget_ms"]
    assert dsmops("plan", "--simulate", spec, "--json").document["asked"] is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--model", "stt-1b"], 3, "stt-1b-en_fr"),
        (["--model", "tts-1.6b-en_fr", "--simulate", "t4"], 3, "--runtime embedded"),
        (
            [
                "--model",
                "tts-1.6b-en_fr",
                "--simulate",
                "t4",
                "--runtime",
                "embedded",
                "--n-q",
                "40",
            ],
            3,
            "1 to 32",
        ),
        (["--simulate", "t4", "--n-q", "0"], 2, "n-q"),
        (["--simulate", "t4", "--dtype", "bf16"], 3, "--dtype f16"),
        (["--simulate", "t4", "--dtype", "int8"], 2, "dtype"),
        (["--simulate", "t4", "--reserve", "lots"], 2, "size"),
        (["--simulate", "t4", "--reserve", "1"], 2, "1GiB or 1MiB"),
        (["--simulate", "t4", "--batch-size", "0"], 2, "batch-size"),
        (["--simulate", "t4", "--context", "9000"], 3, "750"),
        (["--simulate", "t4", "--device", "3"], 3, ""),
        (["--simulate", "t5"], 3, "t4"),
        (["--simulate", "t4", "--profile", "missing.json"], 3, "missing.json"),
        (["--simulate", "t4", "--profile", "/dev/zero"], 3, "pipe or a device"),
    ],
)
def test_wrong_input_is_named_with_a_way_out(arguments: list[str], code: int, words: str) -> None:
    """Each mistake has its exit code and a message that helps, without a traceback."""
    run = dsmops("plan", *arguments)
    assert run.code == code, run.stderr
    assert words in run.stderr
    assert "Traceback" not in run.stderr
    assert run.stdout == ""


def test_the_embedded_worker_is_planned_by_its_own_memory() -> None:
    """The embedded worker needs less than moshi-server, and says where its figures come from."""
    embedded, server = (
        dsmops("plan", "--simulate", "t4", "--json", "--runtime", runtime).document
        for runtime in ("embedded", "moshi-server")
    )
    assert embedded["runtime"] == "embedded"
    assert embedded["memory"]["mimi_weights_bytes"] < server["memory"]["mimi_weights_bytes"]
    assert embedded["memory_batch_size"] > server["memory_batch_size"]
    assert "measurements of the embedded worker" in embedded["notes"][0]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--measure",), 2, "--measure is for --runtime embedded"),
        (("--measure", "--runtime", "embedded", "--profile", "p.json"), 2, "without --profile"),
        (
            ("--measure", "--runtime", "embedded", "--simulate", "t4"),
            3,
            "is not a card of this machine",
        ),
        (("--runtime", "candle"), 2, "embedded"),
    ],
)
def test_measuring_needs_a_card_that_is_here(words: tuple[str, ...], code: int, said: str) -> None:
    """What cannot be measured is refused in words."""
    ran = dsmops("plan", *words)
    assert ran.code == code
    assert said in ran.stderr


def test_a_speaking_model_is_explained_part_by_part() -> None:
    """By its name or its repository's: caches, depformer and codebooks stand beside where they come
    from; the JSON sums to what fits.
    """
    arguments = (
        "plan",
        "--model",
        "kyutai/tts-1.6b-en_fr",
        "--runtime",
        "embedded",
        "--simulate",
        "t4",
        "--n-q",
        "24",
    )
    text = dsmops(*arguments, "--explain").stdout
    assert "tts-1.6b-en_fr in f16 with 24 codebooks" in text.splitlines()[0]
    for part in (
        "depformer weights",
        "cross KV",
        "625 positions",
        "decoder half",
        "once for each of n_q codebooks",
    ):
        assert part in text, part
    document = dsmops(*arguments, "--json").document
    assert document["n_q"] == 24
    assert sum(document["memory"].values()) <= document["usable_bytes"]
    assert [choice["n_q"] for choice in document["codebook_choices"]] == [8, 16, 24, 32]
    assert "cross KV" not in dsmops("plan", "--simulate", "t4", "--explain").stdout


def test_int8_on_a_small_card() -> None:
    """The plan counts both, proposes them where they double the streams, and only there."""
    card = ("plan", "--simulate", "rtx2070", "--model", "stt-2.6b-en", "--json")
    int8 = ("--weights", "int8", "--kv", "int8")
    plain, small = (
        json.loads(dsmops(*card, "--runtime", "embedded", *options).stdout)
        for options in ((), int8)
    )
    assert small["memory_batch_size"] > 2 * plain["memory_batch_size"]
    assert small["quantised"] == {"weights": "int8", "kv": "int8"}
    assert any("dsmops[kernels]" in note for note in small["notes"])
    assert small["step_ms"] / small["batch_size"] < plain["step_ms"] / plain["batch_size"]
    proposed = [note for note in plain["notes"] if "--weights int8 --kv int8" in note]
    (proposal,) = proposed
    assert proposal.startswith(
        f"`dsmops worker --weights int8 --kv int8` has memory for {small['memory_batch_size']}"
        f" instead of {plain['memory_batch_size']}."
    )
    enough = dsmops("plan", "--simulate", "h200", "--runtime", "embedded")
    assert "--weights" not in enough.stdout


def test_moshi_server_has_no_int8() -> None:
    """Asked for, it is refused; proposed, the note says for which program."""
    refused = dsmops("plan", "--simulate", "rtx2070", "--kv", "int8")
    assert refused.code == 3
    assert "--runtime embedded" in refused.stderr
    proposed = dsmops("plan", "--simulate", "rtx2070", "--model", "stt-2.6b-en").stdout
    assert "moshi-server knows neither" in proposed
