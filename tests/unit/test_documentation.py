"""What the documentation names must exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_every_test_that_a_guarantee_names_exists():
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = re.findall(r"`(test_\w+|nothing_is_\w+)`", (ROOT / "docs/guarantees.md").read_text())
    assert len(named) > 20
    assert [name for name in named if f"def {name}(" not in tests] == []


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_every_link_to_a_file_leads_to_one(page):
    path = ROOT / page
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_every_dependency_is_argued_for():
    declared = re.search(r"\ndependencies = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL)[1]
    names = re.findall(r'"([a-z0-9-]+)', declared)
    page = (ROOT / "docs/dependencies.md").read_text()
    assert [name for name in names if f"| {name} |" not in page] == []


@pytest.mark.parametrize("package", ["core", "daemon"])
def test_the_architecture_says_of_every_module_what_it_is_for(package):
    page = (ROOT / "docs/ARCHITECTURE.md").read_text()
    table = page.partition(f"| in `procman/{package}` |")[2].partition("\n\n")[0]
    named = [name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split(" | ")[0])]
    modules = {path.stem for path in (ROOT / "procman" / package).glob("*.py")} - {"__init__", "diagram"}
    assert sorted(named) == sorted(modules)
