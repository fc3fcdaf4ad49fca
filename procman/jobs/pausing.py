"""Channels that are paused while everything runs, in rows that outlive restarts and that every runner obeys.

A channel is shared by all databases of a runner. One that is paused in any of them is paused; so whoever means a
channel writes to all of them.
"""

from __future__ import annotations

from typing import Any

from procman.core.channels import full_name

_WRITE = """
INSERT INTO procman.job_channel AS known (name, paused, by) VALUES (%s, %s, %s)
ON CONFLICT (name) DO UPDATE SET paused = excluded.paused, since = clock_timestamp(), by = excluded.by
WHERE known.paused <> excluded.paused
"""
_READ = "SELECT name, paused, since, by FROM procman.job_channel ORDER BY name"


def pause(cr: Any, channel: str, by: str) -> None:
    """Start nothing in this channel and those below it until it is resumed; what runs goes on."""
    cr.execute(_WRITE, (full_name(channel), True, by))


def resume(cr: Any, channel: str, by: str) -> None:
    """Go on with the channel, also if the configuration has it paused."""
    cr.execute(_WRITE, (full_name(channel), False, by))


def said(cr: Any) -> list[dict[str, Any]]:
    """What was said of channels in this database: ``name``, ``paused``, ``since``, ``by``."""
    cr.execute(_READ)
    return [dict(zip(("name", "paused", "since", "by"), row, strict=True)) for row in cr.fetchall()]
