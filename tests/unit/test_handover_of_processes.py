"""Everything that is known of a process is handed over by an upgrade, or is named here with the reason why not."""

from __future__ import annotations

from dataclasses import fields

import pytest

from procman.daemon.handover import HookLeft, OperationLeft, TemplateLeft, WorkerLeft
from procman.daemon.operations import Operation
from procman.daemon.processes import Errand, TemplateProcess, WorkerProcess

NOT = {
    "name": "made of the pool's name, and the slot or generation",
    "on_dump": "stacks that do not come before the exec are asked for again",
    "on_caches": "who has asked asks again",
    "on_answer": "who has asked asks again",
    "published": "said again within seconds",
    "on_end": "made anew by who waits",
    "orders": "the next image has a nursery of its own",
    "clearing": "its end is seen again",
    "dump_fd of Errand": "a command has no stacks",
    "relatives of TemplateProcess": "nobody is remembered of a template",
    "calls": "connections are lost; clients come back and join",
}


@pytest.mark.parametrize(
    ("kind", "left"),
    [(TemplateProcess, TemplateLeft), (WorkerProcess, WorkerLeft), (Errand, HookLeft), (Operation, OperationLeft)],
)
def test_every_field_is_handed_over_or_named(kind, left):
    handed = {field.name for field in fields(left)}
    missing = {field.name for field in fields(kind)} - handed - set(NOT)
    assert {f"{name} of {kind.__name__}" for name in missing} - set(NOT) == set()
