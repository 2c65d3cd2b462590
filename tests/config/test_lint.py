"""One file per mistake: the first line of each says which codes it earns, at which lines, and for
which device, server and address.
"""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmops.config.lint import CODES, LintInputs, lint
from dsmops.config.load import Config, parse_config, read_config
from dsmops.config.plan import LimitedBy, plan_serving
from dsmops.config.schema import MODULES, SERVER_DTYPES, TOP, ServerVersion
from dsmops.devices import ComputeCapability, Device
from dsmops.dtypes import ComputeDType, StorageDType
from dsmops.findings import Severity
from dsmops.models import STT_MODELS, PublishedModel
from dsmops.shipped import shipped_folder

DATA = Path(__file__).resolve().parents[1] / "data" / "configs"
INVALID = sorted((DATA / "invalid").glob("*.toml"))
VALID = sorted((DATA / "valid").glob("*.toml"))
ON_LOOPBACK = LintInputs(
    environ={"HOME": "/home/operator"}, addr="127.0.0.1", server_version=ServerVersion(0, 6, 4)
)
# Codes about files, which need headers beside the text: tests/config/test_lint_files.py.
ABOUT_FILES = {
    *(
        "file-missing",
        "not-safetensors",
        "swapped-files",
        "not-mimi",
        "other-mimi",
        "int8-file",
        "tensor-mismatch",
        "not-a-tokenizer",
        "tokenizer-size",
    ),
    *("cast-at-load", "kept-f32-cast", "not-checked", "not-tts", "bad-model-config"),
}


def expected_of(config: Config) -> list[tuple[str, int]]:
    """The findings that the first line of a file promises."""
    first = config.text.splitlines()[0].partition("; given: ")[0]
    return sorted((code, int(line)) for code, line in re.findall(r"([a-z0-9-]+) at (\d+)", first))


def inputs_of(config: Config) -> LintInputs:
    """What the first line of a file gives: a device, a server version, an address.

    Version 0.6.4 on 127.0.0.1 unless it says otherwise.
    """
    given = config.text.splitlines()[0].partition("; given: ")[2]

    def number(pattern: str, unit: int) -> int | None:
        found = re.search(rf"(\d+) {pattern}(?:,|$)", given)
        return int(found[1]) * unit if found else None

    server, addr = re.search(r"server ([\d.]+)", given), re.search(r"addr (\S+)", given)
    sm = re.search(r"sm_\d+", given)
    device = Device(
        name="Test card",
        compute_capability=ComputeCapability.parse(sm[0]) if sm else None,
        memory_total_bytes=number("GiB", 2**30),
        memory_free_bytes=number("GiB free", 2**30),
        memory_bandwidth_bytes_per_s=number("GB/s", 10**9),
        nvml_index=0,
        cuda_ordinal=0,
        uuid=None,
        source="simulated",
    )
    return LintInputs(
        environ={"HOME": "/home/operator"},
        device=device if sm else None,
        server_version=None
        if "no server" in given
        else ServerVersion.parse(server[1] if server else "0.6.4"),
        addr=None if "no addr" in given else addr[1] if addr else "127.0.0.1",
    )


@pytest.mark.slow
@pytest.mark.parametrize("path", [*INVALID, *VALID], ids=lambda path: path.stem)
def test_each_file_earns_exactly_what_its_first_line_says(path: Path) -> None:
    """A mistake is reported at its line under its code, and nothing beside it; a right config gets
    nothing.
    """
    config = read_config(path)
    findings = lint(config, inputs_of(config)).findings
    assert sorted((finding.code, finding.line) for finding in findings) == expected_of(config), (
        findings
    )


def test_every_code_has_a_file_that_earns_it() -> None:
    """No code exists without an example, and the name of an example begins with its code."""
    earned = {code for path in INVALID for code, _ in expected_of(read_config(path))}
    assert earned | ABOUT_FILES == set(CODES)
    assert not earned & ABOUT_FILES


@pytest.mark.parametrize("path", [*INVALID, *VALID], ids=lambda path: path.stem)
def test_findings_read_well(path: Path) -> None:
    """Each message is one line that does not end in a full stop, each hint a sentence; no API key
    is repeated but the public one.
    """
    config = read_config(path)
    for finding in lint(config, inputs_of(config)).findings:
        assert finding.severity is CODES[finding.code][0]
        assert finding.message
        assert "\n" not in finding.message + finding.hint
        assert not finding.message.endswith(".")
        assert not finding.hint or finding.hint[-1] in ".?"
        assert "0123456789abcdef" not in finding.message + finding.hint
        assert "hunter2" not in finding.message + finding.hint
        assert "987654321" not in finding.message + finding.hint


@pytest.mark.parametrize(
    "name", ["config-stt-en_fr-hf.toml", "config-stt-en-hf.toml", "config-tts.toml"]
)
def test_the_published_configs_are_clean(name: str, shared_data: Path) -> None:
    """Upstream's own files have no errors, and warnings only for the public key and for keys
    without effect.
    """
    for path in (shared_data / "configs" / name, shipped_folder("configs") / name):
        report = lint(read_config(path), ON_LOOPBACK)
        assert report.counts.errors == 0
        assert {finding.code for finding in report.findings} <= {
            "public-token",
            "ineffective-key",
            "ignored-key",
        }
        assert "public-token" in {finding.code for finding in report.findings}


def test_a_speaking_module_on_an_old_card_is_sent_to_the_worker() -> None:
    """The warning is not an error, for the same file is served by `dsmops worker`; the hint says
    so, and in which dtype.
    """
    config = read_config(DATA / "invalid" / "python-bf16.toml")
    (finding,) = lint(config, inputs_of(config)).findings
    assert finding.severity is Severity.WARNING
    assert "`dsmops worker` serves this file in f16" in finding.hint


def test_a_speaking_batch_that_does_not_fit_is_told_what_would() -> None:
    """The size in the hint fits, and one more does not, as far as the lint can tell."""
    config = read_config(DATA / "invalid" / "memory-too-small-for-speech.toml")
    given = inputs_of(config)
    (finding,) = lint(config, given).findings
    fitting = int(re.findall(r"batch_size = (\d+) fits", finding.hint)[0])
    codes = [
        [
            found.code
            for found in lint(
                parse_config(config.text.replace("batch_size = 40", f"batch_size = {size}")), given
            ).findings
        ]
        for size in (fitting, fitting + 1)
    ]
    assert codes == [[], ["memory-tight"]]


def test_a_typo_is_answered_with_the_real_name() -> None:
    """The hint of an unknown key names the key that was meant, and of a misplaced one the place."""
    unknown = lint(read_config(DATA / "invalid" / "unknown-key.toml"), ON_LOOPBACK).findings[0]
    misplaced = lint(
        read_config(DATA / "invalid" / "misplaced-key-at-top.toml"), ON_LOOPBACK
    ).findings[0]
    assert (
        unknown.hint
        == "Is dtype_override meant? Without it the server takes bf16 on a GPU, f32 on a CPU."
    )
    assert "[modules.NAME.model.transformer]" in misplaced.message


def test_a_missing_override_says_what_would_happen_and_what_to_write() -> None:
    """On a pre-Ampere card the finding names the exact failure and the line to add."""
    config = read_config(DATA / "invalid" / "dtype-override-missing.toml")
    (finding,) = lint(config, inputs_of(config)).findings
    assert "never sends Ready" in finding.message
    assert 'dtype_override = "f16"' in finding.hint


def test_the_words_of_the_server_are_its_own() -> None:
    """`dtype_override` may hold the server's three words, whatever a file may store; and every
    compute dtype can be written as one of them.
    """
    text = (DATA / "invalid" / "dtype-override-missing.toml").read_text()
    words = {dtype.option for dtype in StorageDType} | {"", "F16", "fp16"}
    accepted = {
        word
        for word in words
        if "bad-dtype"
        not in {
            finding.code
            for finding in lint(
                parse_config(text.replace("batch_size", f'dtype_override = "{word}"\nbatch_size')),
                LintInputs(environ={}),
            ).findings
        }
    }
    assert accepted == set(SERVER_DTYPES) == {dtype.candle_name for dtype in ComputeDType}


def test_the_batch_size_that_fits_really_fits() -> None:
    """Following the hint of a batch that is too large leaves nothing to report."""
    path = DATA / "invalid" / "memory-too-small.toml"
    config = read_config(path)
    (finding,) = lint(config, inputs_of(config)).findings
    fitting = re.fullmatch(r"batch_size = (\d+) fits\.", finding.hint)
    assert fitting
    better = parse_config(config.text.replace("batch_size = 64", f"batch_size = {fitting[1]}"))
    assert lint(better, inputs_of(config)).findings == ()
    too_many = parse_config(
        config.text.replace("batch_size = 64", f"batch_size = {int(fitting[1]) + 1}")
    )
    assert lint(too_many, inputs_of(config)).findings != ()


def test_two_modules_share_the_memory() -> None:
    """Modules that fit alone are judged together, for the server loads all of them."""
    text = (
        (DATA / "valid" / "served-on-turing.toml")
        .read_text()
        .replace("batch_size = 4", "batch_size = 25")
    )
    twin = (
        text[text.index("[modules.asr]") :]
        .replace("modules.asr", "modules.twin")
        .replace("/api/asr-streaming", "/api/twin")
    )
    given = inputs_of(parse_config(text))
    assert lint(parse_config(text), given).findings == ()
    assert [finding.code for finding in lint(parse_config(text + "\n" + twin), given).findings] == [
        "memory-too-small"
    ]


@pytest.mark.parametrize("model", STT_MODELS.values(), ids=lambda model: model.name)
@pytest.mark.parametrize("memory_mib", [4096, 6144, 8192, 15360, 16384, 24564, 81920])
def test_what_the_planner_fills_is_not_called_tight(model: PublishedModel, memory_mib: int) -> None:
    """The lint and the planner draw the same line: the planned batch is fine, one slot more
    is not.
    """
    device = Device(
        name="Test card",
        compute_capability=ComputeCapability(7, 5),
        memory_total_bytes=memory_mib * 2**20,
        memory_free_bytes=None,
        memory_bandwidth_bytes_per_s=None,
        nvml_index=0,
        cuda_ordinal=0,
        uuid=None,
        source="simulated",
    )
    plan = plan_serving(device, model)
    template = (shipped_folder("configs") / model.preset).read_text()

    def codes(batch_size: int) -> set[str]:
        text = re.sub(
            r"batch_size = \d+",
            f'batch_size = {batch_size}\ndtype_override = "{plan.dtype.candle_name}"',
            template,
        )
        return {
            finding.code
            for finding in lint(parse_config(text), replace(ON_LOOPBACK, device=device)).findings
        }

    about_memory = {"memory-tight", "memory-too-small"}
    if plan.fits:
        assert not codes(plan.batch_size) & about_memory
    assert plan.limited_by in {LimitedBy.MEMORY, LimitedBy.NOTHING_FITS}
    assert codes(plan.batch_size + 1) & about_memory


@pytest.mark.parametrize(
    ("static", "logs", "served"),
    [
        ("..", "logs", True),
        ("../..", "../logs", True),
        ("../x", "../x/logs", True),
        ("a/../b", "./b/logs", True),
        ("", "logs", True),
        ("/", "../logs", True),
        ("//srv", "/srv/logs", True),
        ("logs", "logs/", True),
        ("../x", "../logs", False),
        ("../x", "logs", False),
        (".", "../logs", False),
        ("static", "static-logs", False),
        ("..", "/var/log", False),
        ("/srv", "srv/logs", False),
        ("../..", "../../../logs", False),
    ],
)
def test_logs_are_served_when_they_lie_in_static_dir(
    static: str, logs: str, *, served: bool
) -> None:
    """Paths are compared as they read, parents included; what depends on the server's working
    directory is not guessed.
    """
    text = f'static_dir = "{static}"\nlog_dir = "{logs}"\n'
    codes = {finding.code for finding in lint(parse_config(text), ON_LOOPBACK).findings}
    assert ("logs-served" in codes) is served


def test_a_shorter_context_is_no_mistake() -> None:
    """Less memory than the model was trained with is a choice, which `dsmops plan` offers
    itself.
    """
    config = parse_config(
        (DATA / "valid" / "served-on-turing.toml")
        .read_text()
        .replace("context = 750", "context = 125")
    )
    assert lint(config, ON_LOOPBACK).findings == ()


def test_the_place_of_a_string_in_a_nested_table_is_told() -> None:
    """What goes to a script is followed through tables and arrays."""
    config = read_config(DATA / "invalid" / "bad-source-nested-in-py.toml")
    assert [finding.where for finding in lint(config, inputs_of(config)).findings] == [
        "modules.tts.py.voices.0.file"
    ]


KEYS = st.sampled_from(
    sorted(
        {
            *TOP.keys,
            *(key for section in MODULES.values() for key in section.keys),
            "transformer",
            "d_model",
            "num_heads",
            "context",
            "conditioners",
            "x",
        }
    )
)
SCALARS = st.one_of(
    st.booleans(),
    st.integers(),
    st.floats(),
    st.dates(),
    st.text(),
    st.sampled_from([*MODULES, "f16", "$X", "~", "hf://a", "/api", "", "Lut"]),
)
TABLES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=8)),
    max_leaves=40,
)


@pytest.mark.slow
@given(
    top=st.dictionaries(KEYS, TABLES, max_size=6),
    tables=st.dictionaries(
        st.sampled_from(["asr", "tts", ""]), st.dictionaries(KEYS, TABLES, max_size=12), max_size=3
    ),
    kind=st.sampled_from(sorted(MODULES)),
)
def test_no_values_upset_the_lint(
    top: dict[str, object], tables: dict[str, dict[str, object]], kind: str
) -> None:
    """Whatever stands where, of whatever type, gets findings and never an exception."""
    values = {**top, "modules": {name: {**table, "type": kind} for name, table in tables.items()}}
    given = inputs_of(
        parse_config("# expect: nothing; given: sm_75, 8 GiB, 320 GB/s, addr 0.0.0.0")
    )
    for finding in lint(Config("x.toml", "", values, {}), given).findings:
        assert finding.line == 1
