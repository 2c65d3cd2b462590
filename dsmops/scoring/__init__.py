"""Hypotheses against references: corpora, normalised forms, word and character error rates.

Importing this package is cheap; jiwer and whisper-normalizer, which come with the worker extra, and
datasets are loaded on first use.
"""

from dsmops.scoring.corpus import Corpus, Utterance
from dsmops.scoring.hub_dataset import DATASETS, is_dataset, open_dataset
from dsmops.scoring.manifest import AUDIO_COLUMNS, read_manifest
from dsmops.scoring.rates import Counts, Score, Summary, compare, summarize
from dsmops.scoring.text import Normalizer, is_scored, normalizer, other_language
from dsmops.scoring.transcript import is_transcript, read_transcript

__all__ = [
    "AUDIO_COLUMNS",
    "DATASETS",
    "Corpus",
    "Counts",
    "Normalizer",
    "Score",
    "Summary",
    "Utterance",
    "compare",
    "is_dataset",
    "is_scored",
    "is_transcript",
    "normalizer",
    "open_dataset",
    "other_language",
    "read_manifest",
    "read_transcript",
    "summarize",
]
