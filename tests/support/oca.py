"""Databases as Odoo 14-19 with OCA's queue_job leaves them: what of their layouts the job runner can meet.

Columns, types, triggers and notices differ between versions; here is each difference that there is, and nothing of
Odoo beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

ADVISORY_LOCK = 2293787760715711918


@dataclass(frozen=True, slots=True)
class Layout:
    """One version. ``guard``: how its worker locks the row that it starts; ``named``: so are its sessions."""

    name: str
    module: str
    json: str = "jsonb"
    lock_table: bool = True
    channel_columns: bool = False
    named: bool = True
    guard: str = "FOR NO KEY UPDATE SKIP LOCKED"

    @property
    def ddl(self) -> str:
        """Everything the runner may look at."""
        parts = [_MODULES, _JOB.replace("JSON", self.json), _CHANNEL, _TRIGGER]
        if self.lock_table:
            parts.append(_LOCK)
        if self.channel_columns:
            parts.append(_CHANNEL_COLUMNS)
        parts.append(f"UPDATE ir_module_module SET latest_version = '{self.module}' WHERE name = 'queue_job';")
        return "".join(parts)


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("14.0", "14.0.3.15.1", json="text", lock_table=False, named=False, guard="FOR UPDATE"),
        Layout("15.0", "15.0.2.3.13", json="text", lock_table=False, named=False, guard="FOR UPDATE"),
        Layout("16.0", "16.0.3.0.2", json="text"),
        Layout("17.0", "17.0.1.5.4", json="text", guard="FOR UPDATE"),
        Layout("18.0.1", "18.0.1.0.0", lock_table=False, guard="FOR UPDATE"),
        Layout("18.0", "18.0.4.1.2", channel_columns=True),
        Layout("19.0", "19.0.2.4.0"),
    )
}

_MODULES = """
CREATE TABLE ir_module_module (
    id serial PRIMARY KEY, name varchar NOT NULL UNIQUE, state varchar, latest_version varchar
);
INSERT INTO ir_module_module (name, state) VALUES ('base', 'installed'), ('queue_job', 'installed');
"""

_JOB = """
CREATE TABLE queue_job (
    id serial PRIMARY KEY, uuid varchar NOT NULL, graph_uuid varchar, user_id integer, company_id integer, name varchar,
    model_name varchar, method_name varchar, records JSON, args JSON, kwargs JSON, dependencies text,
    func_string varchar, state varchar NOT NULL, priority integer, exc_name varchar, exc_message varchar,
    exc_info text, result text, date_created timestamp, date_enqueued timestamp, date_started timestamp,
    date_done timestamp, date_cancelled timestamp, exec_time double precision, eta timestamp, retry integer,
    max_retries integer, channel_method_name varchar, job_function_id integer, channel varchar, identity_key varchar,
    worker_pid integer
);
CREATE INDEX ON queue_job (uuid);
CREATE INDEX ON queue_job (state);
CREATE INDEX ON queue_job (channel);
"""

_CHANNEL = """
CREATE TABLE queue_job_channel (
    id serial PRIMARY KEY, name varchar, complete_name varchar UNIQUE, parent_id integer REFERENCES queue_job_channel,
    removal_interval integer NOT NULL DEFAULT 30
);
INSERT INTO queue_job_channel (name, complete_name) VALUES ('root', 'root');
"""

_CHANNEL_COLUMNS = """
ALTER TABLE queue_job_channel ADD capacity integer, ADD sequential boolean, ADD throttle integer, ADD paused boolean,
    ADD capacity_default integer, ADD sequential_default boolean;
"""

_LOCK = """
CREATE TABLE queue_job_lock (
    id integer PRIMARY KEY, queue_job_id integer NOT NULL REFERENCES queue_job ON DELETE CASCADE
);
CREATE INDEX ON queue_job_lock (queue_job_id);
"""

_TRIGGER = """
CREATE FUNCTION queue_job_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'DELETE' THEN
        PERFORM pg_notify('queue_job', NEW.uuid);
    ELSIF OLD.state <> 'done' THEN
        PERFORM pg_notify('queue_job', OLD.uuid);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER queue_job_notify AFTER INSERT OR UPDATE OR DELETE ON queue_job FOR EACH ROW
    EXECUTE FUNCTION queue_job_notify();
"""

# The times are UTC, without a time zone.
_ENQUEUE = """
INSERT INTO queue_job (uuid, name, model_name, method_name, args, kwargs, state, priority, date_created, eta, retry,
    max_retries, channel, func_string, user_id, company_id, channel_method_name)
VALUES (%(uuid)s, %(method)s, 'test.queue', %(method)s, %(args)s, '{}', %(state)s, %(priority)s,
    clock_timestamp() AT TIME ZONE 'UTC',
    (clock_timestamp() + make_interval(secs => %(eta)s)) AT TIME ZONE 'UTC', 0, %(max_retries)s, %(channel)s,
    'test.queue().' || %(method)s, 1, 1, '<test.queue>.' || %(method)s)
"""


def enqueue(
    cr: Any,
    method: str,
    args: str = "[]",
    *,
    priority: int | None = 10,
    channel: str | None = "root",
    eta: float | None = None,
    max_retries: int | None = 5,
    state: str = "pending",
) -> str:
    """A job's row, as ``with_delay`` makes it; returns the uuid. ``args`` is JSON."""
    uuid = str(uuid4())
    cr.execute(
        _ENQUEUE,
        {
            "uuid": uuid,
            "method": method,
            "args": args,
            "priority": priority,
            "channel": channel,
            "eta": eta,
            "max_retries": max_retries,
            "state": state,
        },
    )
    return uuid
