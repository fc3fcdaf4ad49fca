"""How procmanctl shows jobs to people. Pure: data to text."""

from __future__ import annotations

import json
import time
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Any

from procman.cli.output import duration, styled, table
from procman.observe.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

SHORT = 8  # digits of a uuid that tell two jobs apart, as a rule
LONGEST = 60
MOST_TOLD = 20

_MOMENTS = {"date_created": "created", "eta": "not before", "date_started": "started", "date_done": "ended"}
BAR = 20


def listing(reply: Mapping[str, Any]) -> str:
    """``jobs list``: a line for each job, with what matters most of it now."""
    jobs: Sequence[Mapping[str, Any]] = reply["jobs"]
    if not jobs:
        return "There is no such job."
    several = len({job["database"] for job in jobs}) > 1
    header = ["JOB", *(["DATABASE"] if several else []), "STATE", "CHANNEL", "FUNCTION", "TRIES", "AGE", ""]
    rows = [
        (
            job["uuid"][: _digits(jobs)],
            *([job["database"]] if several else []),
            job["state"],
            job["channel"],
            _cut(name(job)),
            _tries(job),
            duration(ago(job["date_created"])),
            _cut(remark(job)) or " ",
        )
        for job in jobs
    ]
    return table(header, rows, ("TRIES", "AGE"))


def _digits(jobs: Sequence[Mapping[str, Any]]) -> int:
    """How much of the uuids it takes so that no two are the same."""
    uuids = {job["uuid"] for job in jobs}
    return next((n for n in (SHORT, 13, 18, 23) if len({uuid[:n] for uuid in uuids}) == len(uuids)), 36)


def name(job: Mapping[str, Any]) -> str:
    """What people call it: its description, else its function."""
    return str(job.get("description") or job["function"])


def remark(job: Mapping[str, Any]) -> str:
    """The one thing to know of a job in its state."""
    state = job["state"]
    if state == "started":
        return f"{progress_text(job)}{job['worker'] or '?'} for {duration(ago(job['date_started']))}"
    if state == "pending" and job["eta"] and ago(job["eta"]) < 0:
        return f"in {duration(-ago(job['eta']))}{_error(job, ', after ')}"
    if state == "done":
        return f"in {took(job['exec_time'])}"
    return _error(job)


def _error(job: Mapping[str, Any], before: str = "") -> str:
    if not job["exc_name"]:
        return ""
    kind = str(job["exc_name"]).rpartition(".")[2]
    message = str(job["exc_message"] or "").partition("\n")[0]
    return f"{before}{kind}: {message}" if message else f"{before}{kind}"


def progress_text(job: Mapping[str, Any]) -> str:
    """``40 % `` when the job has said so in this try; else nothing."""
    progress = job.get("progress")
    if not progress or progress["attempt"] != job["attempt"]:
        return ""
    if not progress["total"]:
        return f"{progress['done']:g} done, "
    return f"{share(progress):.0%}, "


def share(progress: Mapping[str, Any]) -> float:
    """How much of it is done, 0 to 1."""
    return max(0.0, min(1.0, progress["done"] / progress["total"])) if progress["total"] else 0.0


def moved(reply: Mapping[str, Any]) -> str:
    """``jobs retry`` and ``jobs cancel``: what became of each job, or of how many."""
    jobs, left = reply["jobs"], reply["left"]
    if not jobs and not left:
        return "There is no such job."
    if len(jobs) > MOST_TOLD:
        counted = Counter((one["was"], one["state"]) for one in jobs)
        lines = [f"{number} jobs: {was} → {state}" for (was, state), number in sorted(counted.items())]
    else:
        lines = [f"{one['uuid']}: {one['was']} → {one['state']}" for one in jobs]
    return "\n".join([*lines, *(f"{one['uuid']}: left alone, {one['reason']}" for one in left)])


# -- one job ----------------------------------------------------------------------------------------------


def details(job: Mapping[str, Any]) -> str:
    """``jobs show``."""
    blocks = [f"{styled(printable(name(job)), 'cyan')}\n{_facts(_known(job))}"]
    if job["attempts"]:
        blocks.append("Attempts\n" + _attempts(job["attempts"]))
    blocks += [_evidence(attempt) for attempt in job["attempts"] if attempt["exc_info"]]
    last = job["attempts"][-1]["exc_info"] if job["attempts"] else None
    if job["exc_info"] and job["exc_info"] != last:
        blocks.append(f"What it came to\n{_indented(job['exc_info'])}")
    for key, title in (("depends_on", "Depends on"), ("dependents", "Wait for it")):
        if job[key]:
            rows = [(one["uuid"], one["state"], one["function"]) for one in job[key]]
            blocks.append(f"{title}\n" + table(("JOB", "STATE", "FUNCTION"), rows))
    return "\n\n".join(blocks)


def _known(job: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    yield "uuid", job["uuid"]
    yield "database", job["database"]
    yield "state", job["state"] + (f", {said}" if (said := _since(job)) else "")
    if bar := _progress(job):
        yield "progress", bar
    yield "function", call(job)
    yield "channel", f"{job['channel']}, priority {job['priority']}"
    yield "tries", _tries(job) + (f", {job['attempt']} begun" if job["attempt"] != job["retry"] else "")
    for key in ("identity_key", "graph", "batch"):
        if job.get(key):
            yield key.replace("_", " "), str(job[key])
    if job.get("timeout"):
        yield "timeout", duration(job["timeout"])
    for key, title in _MOMENTS.items():
        if job[key]:
            yield title, moment(job[key])
    if job["result"] is not None:
        yield "result", json.dumps(job["result"], ensure_ascii=False)
    if error := _error(job):
        yield "error", error


def _since(job: Mapping[str, Any]) -> str:
    match job["state"]:
        case "started":
            return f"in {_worker(job)} for {duration(ago(job['date_started']))}"
        case "done":
            return f"in {took(job['exec_time'])}"
        case "pending" if job["eta"] and ago(job["eta"]) < 0:
            return f"in {duration(-ago(job['eta']))}"
        case "pending" | "wait_dependencies":
            return f"for {duration(ago(job['date_created']))}"
    return ""


def _progress(job: Mapping[str, Any]) -> str:
    progress = job["progress"]
    if not progress:
        return ""
    of = f" of {progress['total']:g}" if progress["total"] else ""
    bar = f"{meter(share(progress))} {share(progress):.0%}, " if progress["total"] else ""
    note = f": {printable(progress['note'])}" if progress["note"] else ""
    earlier = f", in attempt {progress['attempt']}" if progress["attempt"] != job["attempt"] else ""
    return f"{bar}{progress['done']:g}{of}{note} ({duration(ago(progress['at']))} ago{earlier})"


def meter(part: float, width: int = BAR) -> str:
    """``━━━━━─────``."""
    filled = round(width * part)
    return "━" * filled + "─" * (width - filled)


def call(job: Mapping[str, Any]) -> str:
    """``module:function(1, name="x")``, cut where it is long."""
    given = [_argument(value) for value in job["args"]]
    given += [f"{key}={_argument(value)}" for key, value in job["kwargs"].items()]
    text = f"{job['function']}({', '.join(given)})"
    return text if len(text) <= 500 else f"{text[:499]}…"


def _argument(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _attempts(attempts: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            one["number"],
            moment(one["date_started"]),
            took(one["seconds"]),
            one["outcome"] or "running",
            one["reason"],
            _worker(one),
            _cut(_error(one)) or " ",
        )
        for one in attempts
    ]
    return table(("", "STARTED", "TOOK", "OUTCOME", "REASON", "WORKER", ""), rows, ("", "TOOK"))


def _worker(of: Mapping[str, Any]) -> str:
    """``http.1 (pid 4711 on host)``."""
    host = f" on {of['worker_host']}" if of["worker_host"] else ""
    return f"{of['worker']} (pid {of['worker_pid']}{host})" if of["worker"] else "?"


def _evidence(attempt: Mapping[str, Any]) -> str:
    return f"Attempt {attempt['number']}\n{_indented(attempt['exc_info'])}"


def _indented(text: str) -> str:
    return "\n".join(f"  {printable(line)}" for line in str(text).rstrip().split("\n"))


# -- cells ------------------------------------------------------------------------------------------------


def _facts(pairs: Iterable[tuple[str, str]]) -> str:
    listed = list(pairs)
    width = max(len(title) for title, _ in listed)
    return "\n".join(f"  {title.ljust(width)}  {printable(value)}" for title, value in listed)


def _tries(job: Mapping[str, Any]) -> str:
    return f"{job['retry']}/{job['max_retries'] or '∞'}"


def took(seconds: float | None) -> str:
    """How long something took: jobs take milliseconds, or hours."""
    return f"{1000 * seconds:.0f}ms" if seconds is not None and seconds < 1 else duration(seconds)


def ago(at: str | None) -> float:
    """Seconds since this point in time; negative when it is to come."""
    return 0.0 if at is None else time.time() - datetime.fromisoformat(at).timestamp()


def moment(at: str | None) -> str:
    """A point in time as the clock on the wall has it."""
    return "-" if at is None else datetime.fromisoformat(at).astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def _cut(text: str) -> str:
    text = printable(text)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
