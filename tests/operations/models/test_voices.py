"""Names of voices to files: this machine, folders, a hub."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dsmops.errors import SourceError, TransferError
from dsmops.operations.models.voices import find_voice, open_voices
from tests.support.hub_server import HubServer, no_hub
from tests.support.progress import RecordedProgress

SUFFIX = ".abcd1234@7.safetensors"
OTHER = ".beef@1.safetensors"
REPO = "org/voices"
FILES = {
    f"expresso/happy_001.wav{SUFFIX}": b"happy",
    f"expresso/happy_002.wav{SUFFIX}": b"happy too",
    f"expresso/sad.wav{SUFFIX}": b"sad",
    f"ears/p001/freeform.mp3{SUFFIX}": b"free",
    f"top.wav{SUFFIX}": b"top",
    f"expresso/old.wav{OTHER}": b"old",
    "README.md": b"voices",
}
NAMES = [
    "ears/p001/freeform.mp3",
    "expresso/happy_001.wav",
    "expresso/happy_002.wav",
    "expresso/sad.wav",
    "top.wav",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The voices as a folder, and one beside it."""
    for name, content in FILES.items():
        path = tmp_path / "voices" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / f"beside.wav{SUFFIX}").write_bytes(b"beside")
    return tmp_path / "voices"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """The voices as a repository."""
    with HubServer({REPO: FILES}) as running:
        for key, value in running.env(tmp_path / "home").items():
            monkeypatch.setenv(key, value)
        yield running


def test_a_folder_knows_its_voices_by_their_paths(folder: Path) -> None:
    """Those for this model, without their suffix; found with and without it."""
    voices = open_voices(str(folder), SUFFIX)
    assert voices.names() == NAMES
    for name in NAMES:
        assert voices.find(name) == voices.find(f"{name}{SUFFIX}") == folder / f"{name}{SUFFIX}"


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "/",
        "../beside.wav",
        "expresso/../../beside.wav",
        "{folder}/top.wav",
        "expresso",
        "expresso//sad.wav",
        "a\0b",
        "a\\b",
        "a" * 5000,
    ],
)
def test_a_stranger_finds_nothing_outside(folder: Path, name: str) -> None:
    """Neither above the folder nor by an absolute path, also where there is such a file."""
    with pytest.raises(SourceError) as refused:
        open_voices(str(folder), SUFFIX).find(name.format(folder=folder))
    assert refused.value.code == "voice.unknown"


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("happy", "expresso/happy_001.wav, expresso/happy_002.wav. It"),
        ("HAPPY_001", "Near names: expresso/happy_001.wav"),
        ("expreso/sad.wav", "Near names: expresso/sad.wav"),
        ("freefrom.mp3", "Near names: ears/p001/freeform.mp3"),
        (f"expresso/sat.wav{SUFFIX}", "Near names: expresso/sad.wav"),
        ("zzz", "Some of them: ears/p001/freeform.mp3, "),
    ],
)
def test_a_missing_voice_names_its_neighbours(
    folder: Path, hub: HubServer, name: str, near: str
) -> None:
    """In a folder and on the hub alike: those that hold the name, those spelt like it, and how many
    there are.
    """
    for where in (str(folder), f"hf://{REPO}"):
        with pytest.raises(SourceError) as missing:
            open_voices(where, SUFFIX).find(name)
        assert (missing.value.code, missing.value.exit_code) == ("voice.unknown", 3)
        assert repr(name) in missing.value.message
        assert near in missing.value.hint
        assert f"It has 5 voices for this model, whose files end in {SUFFIX}." in missing.value.hint


def test_a_folder_without_voices_of_this_model_says_so(folder: Path) -> None:
    """And not that some name is wrong."""
    with pytest.raises(SourceError) as missing:
        open_voices(str(folder), ".feed@3.safetensors").find("top.wav")
    assert (
        missing.value.hint
        == "It has 0 voices for this model, whose files end in .feed@3.safetensors."
    )


@pytest.mark.parametrize("where", ["", "nowhere", "hf://org", "hf-snapshot://org/--/x"])
def test_what_is_no_folder_of_voices_is_refused(where: str) -> None:
    """Before any name is looked for."""
    with pytest.raises(SourceError):
        open_voices(where, SUFFIX)


@pytest.mark.parametrize(
    "where",
    [f"hf://{REPO}", f"hf://{REPO}@main", f"hf-snapshot://{REPO}", f"hf-snapshot://{REPO}/"],
)
def test_a_hub_voice_is_downloaded_once_and_alone(hub: HubServer, where: str) -> None:
    """Its plan is announced; the second time nothing is asked for."""
    progress = RecordedProgress()
    voices = open_voices(where, SUFFIX, progress=progress)
    assert hub.requests == []
    assert voices.names() == NAMES
    assert voices.find("expresso/sad.wav").read_bytes() == b"sad"
    ((total, _),) = progress.announced
    assert total.startswith("Downloading 1 file, 3 B, into ")
    hub.requests.clear()
    assert voices.find(f"expresso/sad.wav{SUFFIX}").read_bytes() == b"sad"
    assert hub.requests == []
    assert len(progress.announced) == 1


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("**/*.safetensors", NAMES[:4]),
        ("expresso/*", NAMES[1:4]),
        ("expresso/", NAMES[1:4]),
        ("*happy*", NAMES[1:3]),
        ("*.md", []),
    ],
)
def test_a_pattern_bounds_what_counts(hub: HubServer, pattern: str, names: list[str]) -> None:
    """As it bounds what moshi-server downloads: what does not match is not there."""
    voices = open_voices(f"hf-snapshot://{REPO}/{pattern}", SUFFIX)
    assert voices.names() == names
    for name in NAMES:
        if name in names:
            assert voices.find(name).read_bytes() == FILES[name + SUFFIX]
        else:
            with pytest.raises(SourceError, match="has no voice"):
                voices.find(name)


def test_what_is_not_there_is_asked_for_once(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names that a server's clients make up cost the hub nothing while its list is fresh; what is
    there is found, and what comes, later.
    """
    voices = open_voices(f"hf://{REPO}", SUFFIX)
    with pytest.raises(SourceError):
        voices.find("nobody.wav")
    hub.requests.clear()
    for name in ("nobody.wav", "somebody.wav", "../nobody.wav"):
        with pytest.raises(SourceError, match="has no voice") as missing:
            voices.find(name)
        assert "It has 5 voices" in missing.value.hint
    assert hub.requests == []
    assert voices.find("top.wav").read_bytes() == b"top"
    hub.repos[REPO].publish({**FILES, f"nobody.wav{SUFFIX}": b"born"})
    monkeypatch.setattr("dsmops.operations.models.voices._LISTED_S", 0)
    assert voices.find("nobody.wav").read_bytes() == b"born"


def test_many_may_want_the_same_voice_at_once(hub: HubServer) -> None:
    """The first download serves them all: none meets the other's half-written file."""
    voices = open_voices(f"hf://{REPO}", SUFFIX)
    together = threading.Barrier(6)

    def find(_: int) -> bytes:
        together.wait(10)
        return voices.find("expresso/sad.wav").read_bytes()

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(find, range(6))) == [b"sad"] * 6
    assert sum((request.method, request.body_bytes) == ("GET", 3) for request in hub.requests) == 1


def test_offline_the_cache_is_all_there_is(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A voice that was fetched is found; of another the hint names those, and how to get it."""
    voices = open_voices(f"hf://{REPO}", SUFFIX)
    voices.find("top.wav")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.requests.clear()
    assert voices.names() == ["top.wav"]
    assert voices.find("top.wav").read_bytes() == b"top"
    with pytest.raises(SourceError) as missing:
        voices.find("stop.wav")
    assert "Near names: top.wav. It has 1 voices in the cache" in missing.value.hint
    assert "hf download" in missing.value.hint
    assert hub.requests == []


def test_a_hub_that_fails_is_no_missing_voice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network is named, not the voice; nor is a repository that is not there."""
    monkeypatch.setattr("dsmops.hub.transfer.ASK_WAITS_S", ())
    with no_hub(tmp_path / "home") as env:
        for key, value in env.items():
            monkeypatch.setenv(key, value)
        for ask in (lambda voices: voices.find("top.wav"), lambda voices: voices.names()):
            with pytest.raises(TransferError):
                ask(open_voices(f"hf://{REPO}", SUFFIX))


def test_a_repository_that_is_not_there_is_named(hub: HubServer) -> None:
    """Rather than the voice."""
    with pytest.raises(SourceError, match="no repository org/nothing"):
        open_voices("hf://org/nothing", SUFFIX).find("top.wav")


def test_a_voice_may_be_a_file_of_ones_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By its path, with or without the suffix, before any folder of voices is looked at; one of
    another model is left to its reader.
    """
    beside = tmp_path / f"beside.wav{SUFFIX}"
    for name in (str(beside), str(tmp_path / "beside.wav"), "beside.wav"):
        monkeypatch.chdir(tmp_path)
        assert find_voice(name, "nowhere", suffix=SUFFIX).resolve() == beside
    old = folder / f"expresso/old.wav{OTHER}"
    assert find_voice(str(old), suffix=SUFFIX) == old
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_voice("~/beside.wav", "nowhere", suffix=SUFFIX) == beside


def test_a_voice_may_be_named_in_a_folder_or_on_the_hub(folder: Path, hub: HubServer) -> None:
    """The given folder, or `hf://org/repo/path`, the suffix left out or not; a missing one there
    names its neighbours too.
    """
    assert find_voice("top.wav", str(folder), suffix=SUFFIX) == folder / f"top.wav{SUFFIX}"
    for name in (f"hf://{REPO}/expresso/sad.wav", f"hf://{REPO}@main/expresso/sad.wav{SUFFIX}"):
        assert find_voice(name, "nowhere", suffix=SUFFIX).read_bytes() == b"sad"
    with pytest.raises(
        SourceError, match=f"hf://{REPO} has no voice 'expresso/sat.wav'"
    ) as missing:
        find_voice(f"hf://{REPO}/expresso/sat.wav", suffix=SUFFIX)
    assert "Near names: expresso/sad.wav" in missing.value.hint


def test_a_recording_is_no_voice(folder: Path, tmp_path: Path) -> None:
    """The error says why; a voice of the folder that is called like it is found all the
    same.
    """
    recording = tmp_path / "me.wav"
    recording.write_bytes(b"RIFF")
    with pytest.raises(SourceError, match=r"me\.wav is not a voice file") as refused:
        find_voice(str(recording), str(folder), suffix=SUFFIX)
    assert "recording itself is not" in refused.value.hint
    (tmp_path / "top.wav").write_bytes(b"RIFF")
    assert find_voice("top.wav", str(folder), suffix=SUFFIX) == folder / f"top.wav{SUFFIX}"
