from __future__ import annotations

from pathlib import Path

from procman.core.diagram import worker_diagram


def test_the_diagram_in_the_documentation_is_the_table():
    text = (Path(__file__).parents[3] / "docs/ARCHITECTURE.md").read_text()
    assert f"```mermaid\n{worker_diagram()}\n```" in text
