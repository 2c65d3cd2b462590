"""What is said where the worker extra is not installed."""

import io
import subprocess
import sys

import numpy as np
import pytest

from dsmops.audio import read, write
from dsmops.errors import ExtraMissingError
from tests.support.sound import encoded, sweep


def test_the_room_can_be_imported_without_the_extra() -> None:
    """soundfile and soxr load when audio is opened, not before."""
    program = "import sys, dsmops.audio; print({'soundfile', 'soxr'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout
        == b"set()\n"
    )


def test_a_missing_soundfile_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """Reading and encoding need it, and say how to get it; a WAV is written without."""
    data = encoded(sweep(24_000, 0.1))
    monkeypatch.setitem(sys.modules, "soundfile", None)
    for attempt in (
        lambda: read(io.BytesIO(data)),
        lambda: write(tmp_path / "x.flac", [np.zeros(10, np.float32)]),
    ):
        with pytest.raises(ExtraMissingError) as caught:
            attempt()
        assert caught.value.exit_code == 4
        assert "soundfile" in caught.value.message
        assert "pip install 'dsmops[worker]'" in caught.value.hint
    assert list(tmp_path.iterdir()) == []
    assert write(tmp_path / "x.wav", [np.zeros(10, np.float32)]).samples == 10


def test_a_missing_soxr_is_missed_only_where_the_rate_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Audio of 24 kHz passes without it."""
    monkeypatch.setitem(sys.modules, "soxr", None)
    assert len(read(io.BytesIO(encoded(sweep(24_000, 0.1))))) == 2400
    with pytest.raises(ExtraMissingError, match="soxr"):
        read(io.BytesIO(encoded(sweep(16_000, 0.1), 16_000)))


def test_what_c_libraries_print_is_dropped() -> None:
    """Lines on descriptor 2 are not shown, those of Python are, in order."""
    code = """if True:
        import os, sys
        from dsmops.audio.libraries import quiet_libraries
        with quiet_libraries():
            os.write(2, b"ALSA lib pcm.c:8570:(snd_pcm_recover) underrun occurred")
            sys.stderr.write("inside, ")
        os.write(2, b"after, ")
        sys.stderr.write("at the end")
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "inside, after, at the end"
