"""What a job waits for, told from its row and from what the job runners say. Pure: data to data, and to text.

``waits_for`` lists the reasons, each with a word for programs (``for``) and a sentence for people (``text``): parent
eta paused full database_full throttled held_up behind turn worker target runner leader database unseen. Nothing is
listed of a job that is over or runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from procman.cli.jobs_text import ago, moment, name, progress_text, took
from procman.cli.output import duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_FOR = {"not_due": "eta"}


def compose(
    job: Mapping[str, Any],
    circumstances: Mapping[str, Any],
    runners: Sequence[Mapping[str, Any]],
    problem: str | None,
) -> dict[str, Any]:
    """The document: ``circumstances`` are what the database says of channels and of its leader, ``runners`` what was
    answered to ``jobwhy``, ``problem`` why nobody was asked."""
    answers = [
        {"worker": runner["worker"], **one}
        for runner in runners
        for one in (runner["answer"] or {}).get("databases", ())
        if one["database"] == job["database"]
    ]
    leading = next((one for one in answers if one["state"] == "leads"), None)
    if job["state"] == "pending" and leading is not None and leading["known"]:
        reasons = list(_by_runner(leading))
    elif job["state"] in ("pending", "enqueued"):
        reasons = [*_by_rows(job, circumstances), *_nobody(runners, answers, circumstances, problem)]
    elif job["state"] == "wait_dependencies":
        reasons = list(_parents(job))
    else:
        reasons = []
    return {
        **{key: job[key] for key in ("database", "uuid", "state", "channel", "function", "description")},
        "says": _state(job),
        "waits_for": reasons,
        "runner": None if leading is None else leading["worker"],
    }


def from_afar(uuid: str, unreachable: str, runners: Sequence[Mapping[str, Any]], problem: str | None) -> dict[str, Any]:
    """The document when the row can't be read from here: what runners say of a job of this uuid."""
    answers = [
        {"worker": runner["worker"], **one}
        for runner in runners
        for one in (runner["answer"] or {}).get("databases", ())
    ]
    known = next((one for one in answers if one["known"]), None)
    reasons: list[dict[str, Any]] = [{"for": "database", "text": f"which can't be asked from here: {unreachable}"}]
    if known is not None:
        reasons = list(_by_runner(known)) if known["state_in_memory"] == "pending" else []
    for one in answers:
        if one["state"] == "down":
            text = f"{one['database']}, which {one['worker']} can't reach either: {one['problem']}"
            reasons.append({"for": "database", "text": text})
    if problem is not None:
        reasons.append({"for": "runner", "text": problem})
    state = None if known is None else known["state_in_memory"]
    return {
        "database": None if known is None else known["database"],
        "uuid": uuid,
        **dict.fromkeys(("channel", "function", "description")),
        "state": state,
        "says": "waits" if state in (None, "pending") else "has been offered to a worker, or runs",
        "waits_for": reasons,
        "runner": None if known is None else known["worker"],
    }


def _by_runner(answer: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    for one in answer["waits_for"]:
        yield {**one, "for": _FOR.get(one["for"], one["for"])}
    if answer["ahead"] or answer["ahead_in_all"]:
        turns = ", by turns of the databases" if answer["by_turns"] else ""
        text = f"its turn: {_jobs(answer['ahead'])} of its channel before it, {answer['ahead_in_all']} of all{turns}"
        yield {"for": "turn", "text": text, "ahead": answer["ahead"], "ahead_in_all": answer["ahead_in_all"]}
    elif not answer["waits_for"]:
        yield {"for": "turn", "text": "nothing: it is about to be offered to a worker", "ahead": 0, "ahead_in_all": 0}


def _by_rows(job: Mapping[str, Any], circumstances: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """What can be seen without a runner: less, and not how full a channel is."""
    if job["state"] == "enqueued":
        text = f"a worker: it was offered to one {duration(ago(job['date_enqueued']))} ago"
        yield {"for": "worker", "text": text}
        return
    if job["eta"] and ago(job["eta"]) < 0:
        text = f"its time, {moment(job['eta'])}, in {duration(-ago(job['eta']))}"
        yield {"for": "eta", "text": text, "seconds": round(-ago(job["eta"]), 3)}
    for said in circumstances.get("channels", ()):
        if said["paused"] and f"{job['channel']}.".startswith(f"{said['name']}."):
            text = f"channel {said['name']}, paused by {said['by']} {duration(ago(said['since']))} ago"
            yield {"for": "paused", "text": text, "channel": said["name"]}


def _nobody(
    runners: Sequence[Mapping[str, Any]],
    answers: Sequence[Mapping[str, Any]],
    circumstances: Mapping[str, Any],
    problem: str | None,
) -> Iterable[dict[str, Any]]:
    """Why no runner can say more."""
    leader = circumstances.get("leader")
    elsewhere = f"{leader['worker']} on {leader['host']}" if leader and leader["alive"] else None
    if any(one["state"] == "leads" for one in answers):
        yield {
            "for": "unseen",
            "text": "the job runner to see it: it reads the rows that it was not told of each minute",
        }
    elif down := next((one for one in answers if one["state"] == "down"), None):
        yield {"for": "database", "text": f"the database, which {down['worker']} can't reach: {down['problem']}"}
    elif elsewhere:
        yield {"for": "leader", "text": f"{elsewhere}, which starts the jobs of this database: ask there"}
    elif problem is not None:
        yield {"for": "runner", "text": f"a job runner: none starts the jobs of this database, and {problem}"}
    elif runners and all(one["answer"] is None for one in runners):
        yield {"for": "runner", "text": f"{runners[0]['worker']}, which does not answer"}
    elif runners and not answers:
        yield {"for": "runner", "text": "a job runner that serves this database: those of this daemon do not"}
    elif runners:
        yield {"for": "leader", "text": "a job runner to take the lead: none has it at the moment"}
    else:
        yield {"for": "runner", "text": "a job runner: the daemon has none"}


def _parents(job: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    for parent in job["depends_on"]:
        if parent["state"] != "done":
            what = f"{parent['function']} {parent['uuid']}, which is {parent['state']}"
            hint = "; `jobs retry` tries it again, `jobs cancel` gives up both" if parent["state"] == "failed" else ""
            yield {"for": "parent", "text": f"{what}{hint}", "uuid": parent["uuid"], "state": parent["state"]}


def _state(job: Mapping[str, Any]) -> str:
    """The state in a sentence."""
    match job["state"]:
        case "started":
            where = f"{job['worker']} (pid {job['worker_pid']})"
            return f"runs in {where} for {duration(ago(job['date_started']))}, {progress_text(job)}try {job['attempt']}"
        case "done":
            return f"is done since {moment(job['date_done'])}, in {took(job['exec_time'])}"
        case "failed":
            return f"has failed at {moment(job['date_done'])}: {job['exc_name']}: {job['exc_message']}"
        case "cancelled":
            return f"was cancelled: {job['exc_message'] or 'nobody said why'}"
        case "enqueued":
            return "has been offered to a worker"
    return f"waits since {duration(ago(job['date_created']))}"


def text(reply: Mapping[str, Any]) -> str:
    """For people."""
    where = f"in channel {reply['channel']} of database {reply['database']} " if reply["channel"] else ""
    what = f"{name(reply)} " if reply["function"] else "Job "
    title = f"{what}{reply['uuid']}\n{where}{reply['says']}"
    lines = [f"  {one['for'].replace('_', ' '):<10}{one['text']}" for one in reply["waits_for"]]
    return "\n".join([title + (" for" if lines else ""), *lines])


def _jobs(number: int) -> str:
    return f"{number} job{'' if number == 1 else 's'}"
