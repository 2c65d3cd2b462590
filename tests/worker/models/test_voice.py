"""Voice files: what is read, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from dsmops.errors import CheckpointError, InputError, SourceError
from dsmops.worker.models.voice import read_voice, require_voice
from tests.support.tts_engines import TALK

SHAPE = (1, *TALK.voice_shape)
VALUES = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
SIGNED = {"sig": "abcd1234", "epoch": "7"}


def write(
    path: Path,
    values: np.ndarray = VALUES,
    metadata: dict[str, str] | None = None,
    name: str = "speaker_wavs",
) -> Path:
    save_file({name: values}, path, metadata)
    return path


@pytest.mark.parametrize("metadata", [None, SIGNED, {"sig": "other"}])
def test_a_voice_is_channels_by_frames(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    """Value for value, whether or not the file says which model it is for."""
    voice = read_voice(write(tmp_path / "me.safetensors", metadata=metadata), TALK)
    assert voice.dtype == np.float32
    np.testing.assert_array_equal(voice, VALUES[0])


@pytest.mark.parametrize(
    ("values", "name", "message"),
    [
        (VALUES.astype(np.float16), "speaker_wavs", r"F16 \[1, 6, 5\], not F32 \[1, 6, 5\]"),
        (VALUES[:, :, :-1].copy(), "speaker_wavs", r"F32 \[1, 6, 4\]"),
        (VALUES[0], "speaker_wavs", r"F32 \[6, 5\]"),
        (VALUES, "ca_src", "does not hold one tensor speaker_wavs"),
        (np.full(SHAPE, np.nan, np.float32), "speaker_wavs", "not finite"),
    ],
)
def test_what_is_no_voice_is_refused(
    tmp_path: Path, values: np.ndarray, name: str, message: str
) -> None:
    """With what it is and what it should be."""
    with pytest.raises(InputError, match=message):
        read_voice(write(tmp_path / "me.safetensors", values, name=name), TALK)


@pytest.mark.parametrize(
    ("name", "metadata"),
    [("me.safetensors", {"sig": "abcd1234", "epoch": "8"}), ("me.wav.beef@7.safetensors", None)],
)
def test_a_voice_of_another_model_is_refused(
    tmp_path: Path, name: str, metadata: dict[str, str] | None
) -> None:
    """It would sound like no voice; the error names both models, from the metadata or the name."""
    with pytest.raises(CheckpointError, match="abcd1234@7") as refused:
        read_voice(write(tmp_path / name, metadata=metadata), TALK)
    assert refused.value.code == "voice.other_model"
    assert ".abcd1234@7.safetensors" in refused.value.hint


def test_what_is_no_file_of_tensors_is_refused(tmp_path: Path) -> None:
    """A recording, a torn file, a folder, nothing."""
    (tmp_path / "me.wav").write_bytes(b"RIFF" + bytes(200))
    whole = write(tmp_path / "me.safetensors").read_bytes()
    (tmp_path / "torn.safetensors").write_bytes(whole[:-4])
    for name in ("me.wav", "torn.safetensors"):
        with pytest.raises(CheckpointError, match=r"is not a|was not made for"):
            read_voice(tmp_path / name, TALK)
    with pytest.raises(InputError, match="is a folder"):
        read_voice(tmp_path, TALK)
    with pytest.raises(SourceError):
        read_voice(tmp_path / "nobody", TALK)


def test_values_from_elsewhere_are_checked_alike() -> None:
    """A voice that came over the wire, say: its shape, and that its numbers are finite."""
    require_voice(VALUES[0], TALK, name="it")
    with pytest.raises(
        InputError, match=r"it has the shape \[1, 6, 5\]; voices of this model have \[6, 5\]"
    ):
        require_voice(VALUES, TALK, name="it")
    with pytest.raises(InputError, match="it holds numbers that are not finite"):
        require_voice(np.full(TALK.voice_shape, np.inf, np.float32), TALK, name="it")
