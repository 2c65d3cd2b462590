"""Names of hub files: what is read, what is refused, and that both directions agree."""

import pytest
from huggingface_hub import parse_hf_uri
from huggingface_hub.utils import validate_repo_id
from hypothesis import given
from hypothesis import strategies as st

from dsmops.errors import SourceError
from dsmops.hub.source import HubFile, is_repo_name, parse_source

_WORD = st.from_regex(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,20}[A-Za-z0-9_])?", fullmatch=True)
_REPOS = st.builds("{}/{}".format, _WORD, _WORD).filter(is_repo_name)
_PRINTABLE = st.characters(categories=("L", "N", "P", "S"), exclude_characters="/\\")
_PATHS = st.lists(
    st.text(_PRINTABLE, min_size=1, max_size=20).filter(lambda part: part not in (".", "..")),
    min_size=1,
    max_size=3,
)
_REVISIONS = st.one_of(
    st.sampled_from(["main", "refs/pr/12", "refs/convert/parquet", "v1.0", "a" * 40]),
    _PATHS.map("/".join),
)
_FILES = st.builds(HubFile, _REPOS, _REVISIONS, _PATHS.map("/".join))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "hf://kyutai/stt-1b-en_fr-candle/mimi-pytorch-e351c8d8@125.safetensors",
            HubFile("kyutai/stt-1b-en_fr-candle", "main", "mimi-pytorch-e351c8d8@125.safetensors"),
        ),
        (
            "hf://kyutai/tts-1.6b-en_fr@main/dsm_tts_1e68beda@240.safetensors",
            HubFile("kyutai/tts-1.6b-en_fr", "main", "dsm_tts_1e68beda@240.safetensors"),
        ),
        (
            "hf://org/repo@v1.0/sub/model.safetensors",
            HubFile("org/repo", "v1.0", "sub/model.safetensors"),
        ),
        (
            "hf://org/repo@refs/pr/1/model.safetensors",
            HubFile("org/repo", "refs/pr/1", "model.safetensors"),
        ),
        (
            "hf://org/repo@refs%2Fpr%2F1/model.safetensors",
            HubFile("org/repo", "refs/pr/1", "model.safetensors"),
        ),
        (
            "hf://org/repo@feature%2Ffp16/m.safetensors",
            HubFile("org/repo", "feature/fp16", "m.safetensors"),
        ),
        ("hf://models/org/repo/m.safetensors", HubFile("org/repo", "main", "m.safetensors")),
        (
            "hf://org/repo/name with space#1?.safetensors",
            HubFile("org/repo", "main", "name with space#1?.safetensors"),
        ),
    ],
)
def test_reads_the_published_forms(source: str, expected: HubFile) -> None:
    """The revision belongs to the repository, an `@` in a file name is part of the name, and pull
    requests keep their slashes.
    """
    assert parse_source(source) == expected


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("hf://", "repository"),
        ("hf://repo", "repository"),
        ("hf://org/repo", "not a file"),
        ("hf://org/repo@main", "not a file"),
        ("hf://org/repo/", "not a file"),
        ("hf://org/repo@/model.safetensors", "revision"),
        ("hf://org/repo@../../etc/model.safetensors", "revision"),
        ("hf://org/repo@%2e%2e%2Fx/model.safetensors", "revision"),
        ("hf://org/repo/../../../etc/passwd", "file name"),
        ("hf://org/repo//model.safetensors", "file name"),
        ("hf://org/repo/a/./model.safetensors", "file name"),
        ("hf://org/repo/a\\..\\model.safetensors", "file name"),
        ("hf://org/repo/model\x1b[2J.safetensors", "file name"),
        ("hf://../repo/model.safetensors", "repository"),
        ("hf://org@main/repo/model.safetensors", "repository"),
        ("hf://org/re--po/model.safetensors", "repository"),
        ("hf://datasets/org/repo/data.parquet", "datasets"),
        ("hf:/org/repo/model.safetensors", "begin"),
    ],
)
def test_refuses_with_the_part_that_is_wrong_and_an_example(source: str, word: str) -> None:
    """A name that cannot be meant gets one error that names the part, and a hint with a right
    name.
    """
    with pytest.raises(SourceError, match=word) as refused:
        parse_source(source)
    assert "hf://kyutai/" in refused.value.hint
    assert refused.value.exit_code == 3


@pytest.mark.parametrize("verb", ["blob", "resolve", "raw"])
def test_a_pasted_web_address_is_answered_with_the_name_to_use(verb: str) -> None:
    """The address of a file's page gets the `hf://` form of the same file as its hint."""
    with pytest.raises(SourceError) as refused:
        parse_source(
            f"https://huggingface.co/org/repo/{verb}/refs%2Fpr%2F1/sub/mimi@125.safetensors?download=true"
        )
    assert "hf://org/repo@refs/pr/1/sub/mimi@125.safetensors" in refused.value.hint


@pytest.mark.slow
@given(_FILES)
def test_writing_and_reading_give_the_same_file(file: HubFile) -> None:
    """Every repository, revision and path survives being written as `hf://` and read back."""
    assert parse_source(str(file)) == file


@given(_FILES)
def test_huggingface_hub_reads_our_names_as_we_do(file: HubFile) -> None:
    """The official parser finds the same repository, revision and path in every name that we
    write.
    """
    theirs = parse_hf_uri(str(file))
    assert (theirs.id, theirs.revision or "main", theirs.path_in_repo) == (
        file.repo,
        file.revision,
        file.filename,
    )


@given(_REPOS)
def test_accepted_repository_names_are_valid_for_huggingface_hub(repo: str) -> None:
    """A repository name that passes here never fails in the client's own check."""
    validate_repo_id(repo)


@given(
    st.one_of(
        st.text(),
        st.text().map("hf://{}".format),
        st.text(alphabet="hf:/@.%2F\\aé").map("hf://org/repo{}".format),
    )
)
def test_any_text_is_a_safe_file_or_an_error(text: str) -> None:
    """Whatever is typed gives a file that stays below the cache folder, or a SourceError."""
    try:
        file = parse_source(text)
    except SourceError:
        return
    for path in (file.revision, file.filename, file.repo):
        assert not path.startswith("/")
        assert not {"", ".", ".."} & set(path.split("/"))
