"""Files and bytes to 24 kHz mono float32 and back.

Importing this package is cheap. soundfile, soxr and sphn, which come with the extra `worker`, are
loaded when audio is opened or written.
"""

from dsmops.audio.g711 import A_LAW, MU_LAW
from dsmops.audio.g711 import RATE_HZ as G711_RATE_HZ
from dsmops.audio.opus import OpusDecoder, OpusEncoder
from dsmops.audio.pcm import (
    FRAME_SAMPLES,
    SAMPLE_RATE_HZ,
    LevelMeter,
    Levels,
    Samples,
    excerpt,
    frames,
)
from dsmops.audio.playback import play
from dsmops.audio.reading import AudioSource, open_audio, read
from dsmops.audio.resampling import Resampler
from dsmops.audio.streaming import StreamEncoder, StreamFormat, open_encoder
from dsmops.audio.writing import Written, pcm_16, require_writable, stream_header, write

__all__ = [
    "A_LAW",
    "FRAME_SAMPLES",
    "G711_RATE_HZ",
    "MU_LAW",
    "SAMPLE_RATE_HZ",
    "AudioSource",
    "LevelMeter",
    "Levels",
    "OpusDecoder",
    "OpusEncoder",
    "Resampler",
    "Samples",
    "StreamEncoder",
    "StreamFormat",
    "Written",
    "excerpt",
    "frames",
    "open_audio",
    "open_encoder",
    "pcm_16",
    "play",
    "read",
    "require_writable",
    "stream_header",
    "write",
]
