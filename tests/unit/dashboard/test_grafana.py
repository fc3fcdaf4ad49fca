"""The dashboard for Grafana asks for nothing but what there is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.unit.dashboard.test_metrics import FIGURES, lines, pool, worker

CONTRIB = Path(__file__).parents[3] / "contrib" / "grafana"


@pytest.fixture(scope="module")
def exposed():
    traffic = {"latencies": [0] * 16, "request_seconds": 0.0, "bytes_received": 0, "bytes_sent": 0, "connections": 0}
    shown = lines(web=pool(worker("web.1", **traffic), backlog=0), run=pool(jobs=FIGURES))
    return {line.split(" ")[2] for line in shown if line.startswith("# TYPE")}


@pytest.mark.parametrize("file", ["procman.json", "README.md"])
def test_every_metric_is_exposed(exposed, file):
    named = set(re.findall(r"\bprocman_[a-z_]+", (CONTRIB / file).read_text()))
    assert len(named) > 5
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in named} <= exposed


def test_it_is_a_dashboard():
    document = json.loads((CONTRIB / "procman.json").read_text())
    panels = document["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 10
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    assert {variable["name"] for variable in document["templating"]["list"]} == {"datasource", "instance", "channel"}
