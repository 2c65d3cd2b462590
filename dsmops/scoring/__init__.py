"""What was said against what was heard: corpora of recordings with references, normalised forms, word and character error rates.

Importing this room is cheap; jiwer and whisper-normalizer, which come with the worker extra, and
datasets are loaded on first use.
"""

from dsmops.scoring.corpus import Corpus, Utterance
from dsmops.scoring.hub_dataset import DATASETS, is_dataset, open_dataset
from dsmops.scoring.manifest import read_manifest
from dsmops.scoring.rates import Counts, Score, Summary, compare, summarize
from dsmops.scoring.text import Normalizer, is_scored, normalizer

__all__ = [
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
    "normalizer",
    "open_dataset",
    "read_manifest",
    "summarize",
]
