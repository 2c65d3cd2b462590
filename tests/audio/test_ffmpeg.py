"""What libsndfile does not read goes through ffmpeg: a real one where it is installed, else a
stand-in for its command line.
"""

import io
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from dsmops.audio import open_audio, read
from dsmops.errors import InputError
from tests.support.sound import encoded, no_ffmpeg, sweep

pytestmark = pytest.mark.slow

FFMPEG = shutil.which("ffmpeg")
needs_ffmpeg = pytest.mark.skipif(FFMPEG is None, reason="ffmpeg is not installed")

_STAND_IN = """#!{python}
import pathlib, struct, sys
assert sys.argv[sys.argv.index("-protocol_whitelist") + 1] == "file"
name = sys.argv[sys.argv.index("-i") + 1]
data = pathlib.Path(name.removeprefix("file:")).read_bytes()
if not data.startswith(b"MADE UP"):
    sys.exit(name + ": Invalid data found when processing input")
sys.stdout.buffer.write(struct.pack(">4s5I", b".snd", 24, 0xFFFFFFFF, 6, 12000, 2))
sys.stdout.buffer.write(struct.pack(">2f", 0.5, 0.25) * 12000)
if data.endswith(b"CUT"):
    sys.stderr.write("partial file")
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program `ffmpeg`, first on PATH, that knows one format of its own: a second of stereo."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "ffmpeg"
    program.write_text(_STAND_IN.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_a_file_a_stream_and_bytes_go_through_it(stand_in: Path) -> None:
    """Rate and channels are its output's; the mean of 0.5 and 0.25 comes out, resampled."""
    path = stand_in / "call.m4a"
    path.write_bytes(b"MADE UP")
    for source in (path, io.BytesIO(b"MADE UP")):
        with open_audio(source) as audio:
            assert (audio.format, audio.sample_rate_hz, audio.channels) == ("ffmpeg", 12_000, 2)
            got = np.concatenate(list(audio.blocks()))
            assert audio.warnings == []
        assert len(got) == 24_000
        assert got[12_000] == pytest.approx(0.375, abs=1e-3)


def test_what_ffmpeg_complains_about_is_told(stand_in: Path) -> None:
    """It ends well with half a file; its last line says why."""
    (stand_in / "half.mkv").write_bytes(b"MADE UP CUT")
    with open_audio(stand_in / "half.mkv") as audio:
        assert sum(map(len, audio.blocks())) == 24_000
    assert "(ffmpeg: partial file)" in audio.warnings[0]


def test_what_neither_reads_has_both_reasons(stand_in: Path) -> None:
    """And a command for audio without a header, with the options that it needs."""
    path = stand_in / "call.ulaw"
    path.write_bytes(bytes(1000))
    with pytest.raises(InputError, match="Invalid data found") as caught:
        read(path)
    assert "libsndfile: Format not recognised; ffmpeg: Invalid data" in caught.value.message
    assert f"ffmpeg -f mulaw -ar 8000 -ac 1 -i {path} call-24k.wav" in caught.value.hint
    path = stand_in / "call.xyz"
    path.write_bytes(bytes(1000))
    with pytest.raises(InputError) as caught:
        read(path)
    assert f"ffmpeg -f s16le -ar 16000 -ac 1 -i {path} call-24k.wav" in caught.value.hint


def test_a_message_names_no_temporary_file(stand_in: Path) -> None:
    """What a server got in a POST is kept in one; the answer does not show where."""
    with pytest.raises(InputError) as caught:
        read(io.BytesIO(b"something else"))
    assert "ffmpeg: Invalid data" in caught.value.message
    assert tempfile.gettempdir() not in caught.value.message


def test_without_ffmpeg_the_hint_says_how_to_get_it(tmp_path: Path) -> None:
    """One command to install, one to convert."""
    path = tmp_path / "talk.mkv"
    path.write_bytes(b"\x1aE\xdf\xa3" + bytes(100))
    with no_ffmpeg(), pytest.raises(InputError) as caught:
        read(path)
    assert "apt-get install ffmpeg" in caught.value.hint
    assert f"ffmpeg -i {path} -ac 1 -ar 24000 talk-24k.wav" in caught.value.hint


@pytest.mark.slow
@needs_ffmpeg
@pytest.mark.parametrize(
    "name", ["a.mp4", "a.m4a", "a.aac", "a.webm", "a.mkv", "a.3gp", "wrong.wav"]
)
def test_the_real_program(tmp_path: Path, name: str) -> None:
    """Every container that phones and recorders make, also under a wrong ending."""
    (tmp_path / "in.wav").write_bytes(encoded(sweep(24_000, 2.0)))
    made = tmp_path / ("a.m4a" if name == "wrong.wav" else name)
    codec = ["-c:a", "aac"] if name in ("a.mkv", "a.3gp") else []
    command = [str(FFMPEG), "-v", "error", "-i", str(tmp_path / "in.wav"), *codec, str(made)]
    subprocess.run(command, check=True)
    path = made.rename(tmp_path / name)
    with open_audio(path) as audio:
        assert audio.format == "ffmpeg"
        assert sum(map(len, audio.blocks())) / 24_000 == pytest.approx(2.0, abs=0.15)
    # A stream of bytes, as a server gets it.
    assert len(read(io.BytesIO(path.read_bytes()))) / 24_000 == pytest.approx(2.0, abs=0.15)


@needs_ffmpeg
def test_the_real_program_reads_amr_and_the_hint_for_headerless_audio_works(tmp_path: Path) -> None:
    """AMR frames of mode 0 are 13 bytes and 20 ms. A headerless file gives a command that runs."""
    (tmp_path / "memo.amr").write_bytes(b"#!AMR\n" + (b"\x04" + bytes(12)) * 100)
    assert len(read(tmp_path / "memo.amr")) / 24_000 == pytest.approx(2.0, abs=0.1)
    (tmp_path / "call.raw").write_bytes((sweep(16_000, 2.0) * 32767).astype("<i2").tobytes())
    with pytest.raises(InputError) as caught:
        read(tmp_path / "call.raw")
    command = caught.value.hint[caught.value.hint.index("ffmpeg -f") :]
    subprocess.run(command, shell=True, cwd=tmp_path, check=True, capture_output=True)
    assert len(read(tmp_path / "call-24k.wav")) / 24_000 == pytest.approx(2.0, abs=0.01)


@needs_ffmpeg
def test_a_playlist_names_no_file_of_this_machine(tmp_path: Path) -> None:
    """A stranger's upload must not make us read other files."""
    (tmp_path / "secret.wav").write_bytes(encoded(sweep(24_000, 2.0)))
    for listed in (
        f"#EXTM3U\n#EXTINF:2,\n{tmp_path}/secret.wav\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile {tmp_path}/secret.wav\n",
    ):
        with pytest.raises(InputError):
            read(io.BytesIO(listed.encode()))
