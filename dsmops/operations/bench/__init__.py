"""`bench`: how many streams a server carries, and how long a step of an engine takes."""

from dsmops.operations.bench.comparison import Change, Comparison, compare, read_old
from dsmops.operations.bench.engine import (
    EngineRequest,
    EngineRow,
    EngineTest,
    describe_stored,
    read_rows,
    run_engine_test,
)
from dsmops.operations.bench.levels import Levels, parse_levels
from dsmops.operations.bench.limits import Limits
from dsmops.operations.bench.material import Recordings, Texts, read_recordings, read_texts
from dsmops.operations.bench.result import (
    Failure,
    Level,
    LoadTest,
    Second,
    SttFigures,
    TtsFigures,
    Verdict,
)
from dsmops.operations.bench.statistics import Spread

__all__ = [
    "Change",
    "Comparison",
    "EngineRequest",
    "EngineRow",
    "EngineTest",
    "Failure",
    "Level",
    "Levels",
    "Limits",
    "LoadTest",
    "Recordings",
    "Second",
    "Spread",
    "SttFigures",
    "Texts",
    "TtsFigures",
    "Verdict",
    "compare",
    "describe_stored",
    "parse_levels",
    "read_old",
    "read_recordings",
    "read_rows",
    "read_texts",
    "run_engine_test",
]
