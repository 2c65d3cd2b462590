"""What the lint makes of the files that a config names: absent, exchanged, of another model, in
another dtype.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from dsmops.config.lint import ConfigFinding, FileState, KnownFile, LintInputs, lint
from dsmops.config.load import Config, parse_config, read_config
from dsmops.config.modules import FileRole
from dsmops.config.schema import ServerVersion
from dsmops.findings import Severity
from dsmops.models import MIMI_TENSOR_PROBES, MODELS, STT_MODELS, LmShape

VALID = Path(__file__).resolve().parents[1] / "data" / "configs" / "valid"
STT_1B, STT_26B = (STT_MODELS[name].shape for name in ("stt-1b-en_fr", "stt-2.6b-en"))


def header(
    lm: LmShape | None, dtype: str = "F16", **changed: tuple[str, tuple[int, ...]] | None
) -> KnownFile:
    """A file that holds `lm` in `dtype`, but for the tensors in `changed` (None: not there)."""
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {
        name: (dtype, shape) for name, shape in lm.tensors().items()
    }
    for name, tensor in changed.items():
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor
    return KnownFile(FileState.PRESENT, tensors=tensors)


MIMI = KnownFile(
    FileState.PRESENT, tensors={name: ("F32", shape) for name, shape in MIMI_TENSOR_PROBES.items()}
)
TOKENIZER = KnownFile(FileState.PRESENT, pieces=8000)
MISSING = KnownFile(FileState.MISSING)


def turing(text_changes: dict[str, str] | None = None) -> Config:
    """The config of the 1B model in f16."""
    text = (VALID / "served-on-turing.toml").read_text()
    for old, new in (text_changes or {}).items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    return parse_config(text)


def findings(
    config: Config,
    *,
    lm: KnownFile | None = None,
    mimi: KnownFile = MIMI,
    tokenizer: KnownFile = TOKENIZER,
) -> tuple[ConfigFinding, ...]:
    """What the lint says with these three files behind the config."""
    files = {
        ("lm.safetensors", FileRole.LM): lm or header(STT_1B),
        ("mimi.safetensors", FileRole.MIMI): mimi,
        ("tokenizer.model", FileRole.TOKENIZER): tokenizer,
    }
    return lint(
        config, LintInputs(files=files, server_version=ServerVersion(0, 6, 4), addr="127.0.0.1")
    ).findings


def only(found: tuple[ConfigFinding, ...], code: str, key: str) -> ConfigFinding:
    """The one finding, which has this code and stands at this key of the module."""
    assert [(finding.code, finding.where) for finding in found] == [(code, f"modules.asr.{key}")]
    return found[0]


def test_matching_files_are_clean() -> None:
    """The right files earn nothing, tensors that the server does not load included."""
    assert findings(turing(), lm=header(STT_1B, **{"some.extra.tensor": ("F16", (1,))})) == ()


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("lm_model_file", "lm"),
        ("audio_tokenizer_file", "mimi"),
        ("text_tokenizer_file", "tokenizer"),
    ],
)
def test_an_absent_file_is_an_error(key: str, name: str) -> None:
    """A file that is not there is named, whatever its role."""
    only(findings(turing(), **{name: MISSING}), "file-missing", key)


def test_an_absent_converted_file_names_the_command_that_makes_it() -> None:
    """The hint for a missing fp16 file leads to the conversion."""
    config = turing({'"lm.safetensors"': '"assets/fp16/x.fp16.safetensors"'})
    files = {("assets/fp16/x.fp16.safetensors", FileRole.LM): MISSING}
    found = lint(
        config, LintInputs(files=files, server_version=ServerVersion(0, 6, 4), addr="127.0.0.1")
    ).findings
    assert "dsmops prep-sm75" in only(found, "file-missing", "lm_model_file").hint


def test_a_file_of_the_hub_that_is_not_cached_is_noted() -> None:
    """What cannot be looked at without a download is said, and is not a mistake."""
    only(findings(turing(), lm=KnownFile(FileState.NOT_CACHED)), "not-checked", "lm_model_file")


def test_a_damaged_file_is_an_error_with_its_reason() -> None:
    """The reader's own words reach the finding."""
    found = findings(turing(), lm=KnownFile(FileState.PRESENT, problem="the header is cut off"))
    assert "the header is cut off" in only(found, "not-safetensors", "lm_model_file").message


def test_exchanged_files_are_seen_from_both_sides() -> None:
    """Mimi where the language model should be and the other way round: two findings, each at its
    key.
    """
    found = findings(turing(), lm=MIMI, mimi=header(STT_1B))
    assert [(finding.code, finding.where) for finding in found] == [
        ("swapped-files", "modules.asr.lm_model_file"),
        ("swapped-files", "modules.asr.audio_tokenizer_file"),
    ]


def test_another_file_in_the_place_of_mimi() -> None:
    """A safetensors file that is neither is distinguished from Mimi by its tensors."""
    other = KnownFile(FileState.PRESENT, tensors={"weight": ("F32", (1,))})
    only(findings(turing(), mimi=other), "not-mimi", "audio_tokenizer_file")


def test_a_mimi_of_other_dimensions_is_for_the_embedded_worker() -> None:
    """Mimi's tensors in other shapes: moshi-server would panic, `dsmops worker` reads them; a
    warning, at its key.
    """
    small = KnownFile(FileState.PRESENT, tensors=dict.fromkeys(MIMI_TENSOR_PROBES, ("F32", (8,))))
    finding = only(findings(turing(), mimi=small), "other-mimi", "audio_tokenizer_file")
    assert finding.severity is Severity.WARNING
    only(findings(turing(), lm=small), "swapped-files", "lm_model_file")


def test_another_model_is_recognised() -> None:
    """The 2.6B file under the tables of the 1B: the first differences, their number, and which
    config has the right tables.
    """
    finding = only(findings(turing(), lm=header(STT_26B)), "tensor-mismatch", "lm_model_file")
    assert "extra_heads.0.weight is missing" in finding.message
    assert "more" in finding.message
    assert "stt-2.6b-en" in finding.hint
    assert "config-stt-en-hf.toml" in finding.hint


def test_a_missing_tensor_and_a_wrong_shape_are_named() -> None:
    """Both kinds of difference, with the shapes of both sides."""
    name = "transformer.layers.3.self_attn.out_proj.weight"
    lm = header(STT_1B, **{"out_norm.alpha": None, name: ("F16", (2048, 1024))})
    message = only(findings(turing(), lm=lm), "tensor-mismatch", "lm_model_file").message
    assert "out_norm.alpha is missing" in message
    assert f"{name} is (2048, 1024), [model] says (2048, 2048)" in message
    assert "more" not in message


def test_a_config_with_fewer_layers_than_the_file_is_fine() -> None:
    """Tensors that are left over are ignored by the server, and here."""
    assert findings(turing({"num_layers = 16": "num_layers = 15"})) == ()


def test_an_absurd_number_of_layers_costs_nothing() -> None:
    """A billion layers are a difference, found without listing them."""
    config = turing(
        {
            "num_layers = 16": "num_layers = 1000000000",
            "audio_codebooks = 32": "audio_codebooks = 1000000000",
        }
    )
    assert "tensor-mismatch" in {finding.code for finding in findings(config)}


def test_only_tensors_of_known_form_are_compared() -> None:
    """LayerNorms and blocks without gating have other tensors; none of them is called missing."""
    plain = {
        name: ("F16", shape)
        for name, shape in STT_1B.tensors().items()
        if "norm" not in name and ".gating." not in name
    }  # type: ignore[union-attr]
    config = turing({'norm = "RmsNorm"': 'norm = "LayerNorm"', 'gating = "silu"\n': ""})
    assert findings(config, lm=KnownFile(FileState.PRESENT, tensors=plain)) == ()


def test_conditioners_and_depformer_are_compared() -> None:
    """Their tensors are expected by the sizes that the config gives them."""
    found = lint(
        read_config(VALID / "one-session-at-a-time.toml"),
        LintInputs(
            files={("tts.safetensors", FileRole.LM): header(STT_1B)},
            server_version=ServerVersion(0, 6, 4),
            addr="127.0.0.1",
        ),
    ).findings
    (finding,) = [finding for finding in found if finding.code == "tensor-mismatch"]
    # 4 tensors (no LayerNorms) for each of 32 more layers, 3 of the conditioner, 2 for each of 16
    # slices; three of them are named.
    assert "and 160 more" in finding.message


def test_a_tokenizer_of_another_size_is_suspicious() -> None:
    """The English tokenizer under the bilingual model would turn tokens into wrong words."""
    finding = only(
        findings(turing(), tokenizer=replace(TOKENIZER, pieces=4000)),
        "tokenizer-size",
        "text_tokenizer_file",
    )
    assert "4000" in finding.message
    assert "8000" in finding.message


def test_a_file_that_is_no_tokenizer() -> None:
    """Something else under the tokenizer's key is an error."""
    only(
        findings(turing(), tokenizer=replace(TOKENIZER, pieces=None)),
        "not-a-tokenizer",
        "text_tokenizer_file",
    )


@pytest.mark.parametrize(
    ("stored", "override", "code"),
    [
        ("BF16", "f16", "cast-at-load"),
        ("F32", "f16", "cast-at-load"),
        ("F16", "bf16", "cast-at-load"),
        ("BF16", "f32", None),
        ("F16", "f32", None),
    ],
)
def test_casts_at_load_that_lose_something_are_noted(
    stored: str, override: str, code: str | None
) -> None:
    """A file in another dtype is served, and the note says what the cast may lose; widening loses
    nothing.
    """
    found = findings(turing({'"f16"': f'"{override}"'}), lm=header(STT_1B, stored))
    assert [finding.code for finding in found] == ([code] if code else [])


def test_tensors_kept_in_f32_are_cast_all_the_same() -> None:
    """A file that was converted with some tensors kept in F32 does not help this server."""
    lm = header(STT_1B, **{"out_norm.alpha": ("F32", (1, 1, 2048))})
    assert (
        "1 of 135 tensors"
        in only(findings(turing(), lm=lm), "kept-f32-cast", "lm_model_file").message
    )


@pytest.mark.parametrize("kind", ["BatchedAsr", "Tts"])
def test_a_released_speaking_model_is_for_no_rust_module(kind: str) -> None:
    """Whatever the [model] tables say: the server's Rust code lacks what its depformer needs, and
    the hint names who has it.
    """
    tts = MODELS["tts-1.6b-en_fr"].shape.tensors()
    known = KnownFile(
        FileState.PRESENT, tensors={name: ("BF16", shape) for name, shape in tts.items()}
    )
    config = turing({'type = "BatchedAsr"': f'type = "{kind}"'})
    (found,) = [
        finding for finding in findings(config, lm=known) if finding.code == "tensor-mismatch"
    ]
    assert "no Rust module" in found.message
    assert "type Py" in found.hint
