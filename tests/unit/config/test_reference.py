"""docs/configuration.md is made from the tables of keys, and is what they make now."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from procman.config.keys import BACKOFF, LIMITS, POOL, RELOAD, TABLES, WORK, Nested
from procman.config.problems import Code
from procman.config.reference import reference
from procman.core.spec import Backoff, Kind, Limits, PoolSpec, Reload

PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == reference(), (
        "run: python -m procman.config.reference > docs/configuration.md"
    )


def test_every_key_and_every_code_is_in_it():
    page = reference()
    for table in TABLES:
        for key in table.keys:
            assert f"`{key.name}`" in page
            assert key.doc
    for code in Code:
        assert f"| {code.code} | {code.meaning} |" in page


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.POSTGRES])
def test_every_field_of_the_specification_can_be_said_in_a_file(kind):
    fields = {one.name for cls in (PoolSpec, WORK[kind]) for one in dataclasses.fields(cls)}
    keys = {key.field for key in POOL.keys if kind in key.kinds}
    derived = {"name", "work", "addresses", "scaling"}
    derived |= {"limits", "hang_timeout", "recycle_at_once", "relaxed"} if kind is Kind.EXEC else set()
    assert fields - derived == keys - {"env_file"}


@pytest.mark.parametrize(("table", "cls"), [(LIMITS, Limits), (BACKOFF, Backoff), (RELOAD, Reload)])
def test_every_field_of_the_nested_tables_too(table, cls):
    assert {key.field for key in table.keys} == {one.name for one in dataclasses.fields(cls)}
    assert any(isinstance(key.type, Nested) and key.type.table is table for key in POOL.keys)
