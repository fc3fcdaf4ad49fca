"""The screen of top: what is on it, at every size; and the rates it shows."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from procman.cli.rates import Rates, sparkline
from procman.cli.screen import draw, meter
from procman.cli.view import SORTS, View


def worker(name, pid, requests=0, **more):
    return {
        "name": name,
        "pid": pid,
        "generation": 1,
        "state": "ready",
        "busy": False,
        "unit": None,
        "unit_seconds": None,
        "requests": requests,
        "rss": 2**20,
        "cpu_percent": 1.5,
        "uptime": 10.0,
        **more,
    }


def pool(*workers, **more):
    return {
        "kind": "http",
        "state": "running",
        "generation": 1,
        "target": len(workers),
        "ready": len(workers),
        "busy": 0,
        "workers": list(workers),
        "listens": ["127.0.0.1:8069"],
        "parked": None,
        "exits": [],
        **more,
    }


def lines(view, width=130, height=40):
    out = io.StringIO()
    console = Console(file=out, width=width, height=height, force_terminal=False)
    console.print(draw(view, width, height))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def line(view, start, **size):
    (found,) = [line for line in lines(view, **size) if line.startswith(f" {start}")]
    return [word for word in found.split() if word != "●"]


ARBITER = {"pid": 7, "version": "1.0", "uptime": 90.0, "rss": 2**25, "cpu_percent": 0.1, "state": "running"}
EXIT = {"worker": "http.9", "pid": 5, "reason": "crashed", "status": -11, "lived": 2.0, "at": 1.0, "generation": 1}


def view(*workers, **more):
    return View(status={"arbiter": ARBITER, "pools": {"http": pool(*workers, **more)}})


def test_a_unit_that_says_how_far_it_is():
    seen = view(worker("http.1", 11, unit="job demo:count 1f", unit_seconds=99.0, busy=True, progress=0.48))
    assert "━━━─────  48 %  job demo:count 1f" in " ".join(lines(seen))


def test_jobs_have_a_line():
    said = {
        "channels": {
            "root": {"running": 3, "waiting": 12, "paused": False},
            "root.x": {"running": 1, "waiting": 0, "paused": True},
        },
        "jobs": [["shop", "root.x", "failed", 2, None], ["shop", "root", "pending", 12, 1.0]],
        "databases": {"shop": {"state": "leads"}, "old": {"state": "down"}},
        "rescued": {"shop": 4},
    }  # fmt: skip
    for height in (24, 40):
        shown = lines(view(worker("http.1", 11), jobs=said), height=height)
        assert shown[2].strip() == (
            "jobs running 3   waiting 12   failed 2   rescued 4   paused: root.x   not reached: old"
        )
        assert len(shown) <= height


def test_everything_is_there():
    busy = worker("http.1", 11, unit="GET /orders", unit_seconds=12.0, busy=True)
    seen = view(busy, worker("http.2", 12), exits=[EXIT], parked="failed 5 times")
    seen.operations = [
        {
            "operation": "reload-3",
            "began": 1.0,
            "parts": {"http": {"outcome": "running", "ready": 1, "target": 2}, "cron": {"outcome": "done"}},
        }
    ]
    assert "procmand 1.0   ● running   pid 7   up 1m 30s   memory 32.0 MiB   cpu 0.1 %" in lines(seen)[0]
    assert lines(seen)[1].startswith(" workers 2   busy 1   requests/s 0.0   memory 2.0 MiB   cpu 3.0 %")
    assert line(seen, "http  ")[:5] == ["http", "http", "running", "2/2", "────────"]
    assert line(seen, "http  ")[-1] == "127.0.0.1:8069"
    assert line(seen, "http.1")[:7] == ["http.1", "11", "ready", "1", "GET", "/orders", "12.0s"]
    assert line(seen, "http.9")[:5] == ["http.9", "5", "crashed", "SIGSEGV", "2.0s"]
    assert " http is parked: failed 5 times" in lines(seen)
    assert line(seen, "reload-3")[-4:] == ["http", "1/2,", "cron", "done"]
    assert lines(seen)[-1].startswith(" q quit   ↑↓ select   ⏎ stacks   s sort")
    assert len(lines(seen)) == 40, "the keys are at the bottom of the screen"


def test_a_problem_takes_the_place_of_the_daemon():
    seen = view(worker("http.1", 1))
    seen.problem = "no daemon at ipc://x"
    assert lines(seen)[0] == "no daemon at ipc://x"


@pytest.mark.parametrize("width", [20, 45, 60, 80, 100, 200])
@pytest.mark.parametrize("height", [3, 12, 24, 60])
@pytest.mark.parametrize("workers", [0, 1, 100])
def test_it_fits_at_every_size(width, height, workers):
    seen = view(*(worker(f"http.{n}", n) for n in range(workers)), exits=[EXIT] * 10)
    drawn = lines(seen, width, height)
    assert all(len(line) <= width for line in drawn)
    assert len(drawn) <= max(height, 10)
    if height >= 12 and workers == 100 and width > 40:
        assert drawn[-1].startswith(" q quit   ↑↓ select: 0 above, ")


def hundred():
    return view(*(worker(f"http.{n:02}", n, requests=n % 7, rss=(n * 37) % 100, uptime=n) for n in range(100)))


def press(view, *keys):
    return [view.obey(key) for key in keys][-1]


def names(view, **size):
    return [line.split()[0] for line in lines(view, **size) if line.startswith(" http.")]


def test_the_selected_worker_is_always_among_those_shown():
    seen = hundred()
    assert names(seen, height=20)[0] == "http.00"
    for key, name in (
        ("page down", "http.10"),
        ("down", "http.11"),
        ("G", "http.99"),
        ("k", "http.98"),
        ("g", "http.00"),
    ):
        press(seen, key)
        assert seen.chosen == name
        assert name in names(seen, height=20)
    press(seen, "up")
    assert seen.chosen == "http.00"
    press(seen, "end")
    assert lines(seen, height=20)[-1].startswith(" q quit   ↑↓ select: ")
    assert ", 0 below" in lines(seen, height=20)[-1]


@pytest.mark.parametrize("column", [name for name in SORTS if name])
def test_sorting_by_each_column(column):
    seen = hundred()
    while seen.sort != column:
        press(seen, "s")
    assert any(f"{column}▾" in line for line in lines(seen))
    value = SORTS[column][0]
    forwards = [value(seen.rates, one) for one in seen.workers]
    assert forwards == sorted(forwards, reverse=SORTS[column][1])
    press(seen, "r")
    assert [value(seen.rates, one) for one in seen.workers] == forwards[::-1]
    press(seen, "S", "s")
    assert (seen.sort, seen.reverse) == (column, False)


def test_the_filter_is_typed_kept_and_taken_away():
    seen = view(worker("http.1", 1))
    seen.status["pools"]["cron"] = pool(worker("cron.1", 2), kind="cron")
    press(seen, "/", "c", "x")
    assert (seen.workers, seen.chosen) == ([], None)
    assert any("only cx▏" in line for line in lines(seen))
    press(seen, "backspace", "r", "enter")
    assert [one["name"] for one in seen.workers] == ["cron.1"]
    assert any("only cr" in line for line in lines(seen))
    press(seen, "/")
    press(seen, "q")
    assert seen.filter == "q", "what is typed is no command"
    press(seen, "escape")
    assert len(seen.workers) == 2


def test_stacks_take_the_screen_and_give_it_back():
    seen = hundred()
    assert press(seen, "enter") == "stacks"
    seen.show("Stacks of http.00", "\n".join(f"line {n}" for n in range(50)) + "\x1b[2J")
    drawn = lines(seen, height=20)
    assert (drawn[0], len(drawn)) == (" Stacks of http.00", 20)
    assert drawn[-2].startswith("line 49"), "where it is stuck is at the end"
    assert "\x1b" not in "".join(drawn)
    press(seen, "g")
    assert lines(seen, height=20)[2] == "line 0"
    assert press(seen, "q") == ""
    assert "http.00" in names(seen)
    assert press(seen, "q") == press(seen, "quit") == "quit"


def test_events_come_each_once_beside_the_exits_or_instead_of_them():
    seen = view(worker("http.1", 1), exits=[EXIT])
    event = {"seq": 3, "topic": "pool.http.exited", "ts": 1.0, "slot": "http.1", "gen": 2, "reason": "oom"}
    seen.hear([event])
    seen.hear([event, {**event, "seq": 4, "topic": "arbiter.stopping", "slot": None, "gen": None, "reason": None}])
    assert [one["seq"] for one in seen.events] == [3, 4]
    wide = "\n".join(lines(seen, width=140))
    assert "LAST EXITS" in wide
    assert "http.1@2" in wide
    narrow = "\n".join(lines(seen, width=90))
    assert "LAST EXITS" not in narrow
    assert "exited" in narrow
    assert "arbiter" in narrow


def test_pausing_is_shown():
    seen = hundred()
    press(seen, "p")
    assert "paused" in lines(seen)[0]
    press(seen, "p")
    assert not seen.paused


@pytest.mark.parametrize(
    ("value", "most", "drawn"),
    [(0, 4, "──────── 0"), (2, 4, "━━━━──── 2"), (4, 4, "━━━━━━━━ 4"), (1, 100, "━─────── 1"), (0, 0, "──────── 0")],
)
def test_a_meter_is_empty_only_for_nothing(value, most, drawn):
    assert meter(value, most).plain == drawn


def test_what_a_client_sends_can_not_draw():
    seen = view(worker("http.1", 1, unit="GET /\x1b[2J[bold]x", unit_seconds=1.0))
    text = "\n".join(lines(seen))
    assert "\x1b" not in text
    assert "[bold]x" in text


def test_rates_are_of_the_time_between_two_looks():
    rates = Rates()
    rates.look({"http": pool(worker("http.1", 1, 100), worker("http.2", 2, 50))}, 10.0)
    assert rates.of_pool("http") == 15.0  # (100 + 50) in the 10 seconds that they live
    first, second = worker("http.1", 1, 110), worker("http.2", 2, 50)
    rates.look({"http": pool(first, second)}, 12.0)
    assert (rates.of_worker(first), rates.of_worker(second), rates.of_pool("http")) == (5.0, 0.0, 5.0)
    replaced = worker("http.1", 9, 2, uptime=1.0)
    rates.look({"http": pool(replaced, second), "x": pool()}, 14.0)
    assert (rates.of_worker(replaced), rates.total) == (2.0, 2.0)
    assert list(rates.history("http")) == [15.0, 5.0, 2.0]
    rates.look({}, 15.0)
    assert (rates.total, list(rates.history("http"))) == (0.0, [])


@pytest.mark.parametrize(
    ("values", "drawn"),
    [([], ""), ([0, 0], "▁▁"), ([1, 2, 4, 8], "▂▃▅█"), ([9, 9, 0, 7], "▁█"), ([0.0001], "█")],
)
def test_sparkline(values, drawn):
    assert sparkline(values, 2 if len(values) == 4 and values[0] == 9 else 4) == drawn
