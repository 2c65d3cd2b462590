"""The dashboard and the alert rules in runbooks/monitoring name metrics that the worker exports.

`python -m tools.monitoring` has a real Prometheus evaluate them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from dsmops.worker.serving.metrics import FAMILIES, MetricsBoard

FOLDER = Path(__file__).parents[3] / "runbooks" / "monitoring"
_SELECTOR = re.compile(r"\b([a-z][a-z0-9_]*)\s*(?:\{([^}]*)\}|\[|\s*[<>=!]|\))")
_NOT_METRICS = {"instance", "le", "handler", "device"}
_FROM_PROMETHEUS = {"up"}


def exported() -> dict[str, set[str]]:
    """Return each exported series' name with the values of its `le`."""
    found: dict[str, set[str]] = {}
    for family in FAMILIES:
        for line in family.lines([0.0] * family.width):
            if not line.startswith("#"):
                bounds = found.setdefault(re.split(r"[{ ]", line)[0], set())
                bounds.update(re.findall(r'le="([^"]*)"', line))
    return found


def expressions() -> dict[str, str]:
    """Return every expression, by where it stands."""
    board: dict[str, Any] = json.loads((FOLDER / "grafana-dashboard.json").read_text("utf-8"))
    rules = yaml.safe_load((FOLDER / "alerts.yml").read_text("utf-8"))
    shown = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in board["panels"]
        for target in panel.get("targets", [])
    }
    alerts = {rule["alert"]: rule["expr"] for group in rules["groups"] for rule in group["rules"]}
    return shown | alerts


@pytest.mark.parametrize("where", sorted(expressions()))
def test_every_metric_is_exported(where: str) -> None:
    """Under this name, and with this bound where one is asked for."""
    expression, known = expressions()[where], exported()
    named = [
        (name, labels)
        for name, labels in _SELECTOR.findall(expression)
        if name not in _NOT_METRICS | _FROM_PROMETHEUS
    ]
    assert named or "up" in expression
    for name, labels in named:
        assert name in known, f"{name} in {expression}"
        for bound in re.findall(r'le="([^"]*)"', labels or ""):
            assert bound in known[name]


def test_our_own_counters_begin_with_0() -> None:
    """An alert on their increase sees the first one."""
    text = MetricsBoard().exposition()
    assert 'worker_front_restarts{handler="all"} 0.0' in text
    assert "asr_connect" not in text


def test_the_check_notices_an_unknown_metric() -> None:
    """Names of every form of use are found."""
    text = 'sum by (instance) (rate(one_count[5m])) > two{le="0.1"} and three == 0'
    assert {name for name, _ in _SELECTOR.findall(text)} >= {"one_count", "two", "three"}
