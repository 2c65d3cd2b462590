"""Audio that libsndfile does not read (MP4, AAC, AMR, WebM, ...), through the program ffmpeg.

A file of a stranger may be a playlist that names other files or addresses, so ffmpeg may use local
containers only, and no protocol but the file.

Source: ffmpeg 7 manual, "Format Options" (format_whitelist) and "Protocol Options".
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CONTAINERS = (
    "aac,ac3,aiff,alac,amr,amrnb,amrwb,ape,asf,au,avi,caf,dts,eac3,flac,flv,gsm,latm,loas,matroska,"
    "webm,mkv,mov,mp4,m4a,3gp,3g2,mj2,mp3,mpeg,mpegts,mpc,mpc8,nut,ogg,rm,tta,voc,w64,wav,wv"
)
_HEADER_BYTES = 24
_SHOWN_CHARS = 200


def is_installed() -> bool:
    """Return whether the program is found on PATH."""
    return shutil.which("ffmpeg") is not None


class FfmpegError(Exception):
    """What ffmpeg said last."""


class FfmpegDecoder:
    """The first audio track of a file, as float samples at its own rate. One process, one pass."""

    def __init__(self, path: Path) -> None:
        """Raises FfmpegError where ffmpeg finds no audio."""
        # The output is AU: the simplest header that tells rate and channels.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 close() closes it
        self._process = subprocess.Popen(
            [
                *("ffmpeg", "-nostdin", "-hide_banner", "-v", "error"),
                *("-protocol_whitelist", "file", "-format_whitelist", _CONTAINERS),
                *("-i", f"file:{path.absolute()}"),
                *("-map", "0:a:0", "-f", "au", "-c:a", "pcm_f32be", "pipe:1"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        header = self._read(_HEADER_BYTES)
        if len(header) < _HEADER_BYTES:
            reason = self._reason()
            self.close()
            raise FfmpegError(reason)
        offset, _, _, self.samplerate, self.channels = struct.unpack(">5I", header[4:])
        self._read(offset - _HEADER_BYTES)

    def read(self, count: int) -> NDArray[np.float32]:
        """Return up to `count` samples as float32 [n, channels]; none at the end.

        Raises:
            FfmpegError: ffmpeg ended with an error, after all that it could read.
        """
        data = self._read(4 * self.channels * count)
        usable = len(data) - len(data) % (4 * self.channels)
        if not usable and self._process.wait():
            raise FfmpegError(self._reason())
        samples = np.frombuffer(data[:usable], ">f4").astype(np.float32)
        return samples.reshape(-1, self.channels)

    def complaint(self) -> str:
        """Return what ffmpeg said about a file that it read to its end, empty for nothing."""
        self._process.wait()
        return self._last_line()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()

    def _read(self, count: int) -> bytes:
        stdout: Any = self._process.stdout
        data: bytes = stdout.read(count)
        return data

    def _reason(self) -> str:
        self._process.wait()
        return self._last_line() or "it gave no reason"

    def _last_line(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip()[:_SHOWN_CHARS] if lines else ""
