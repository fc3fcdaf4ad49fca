"""The screen of top: what is on it, at every size; and the rates it shows."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from procman.cli.rates import Rates, sparkline
from procman.cli.screen import View, draw


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
    (found,) = [line for line in lines(view, **size) if line.startswith(start)]
    return found.split()


ARBITER = {"pid": 7, "version": "1.0", "uptime": 90.0, "rss": 2**25, "cpu_percent": 0.1, "state": "running"}
EXIT = {"worker": "http.9", "pid": 5, "reason": "crashed", "status": -11, "lived": 2.0, "at": 1.0, "generation": 1}


def view(*workers, **more):
    return View(status={"arbiter": ARBITER, "pools": {"http": pool(*workers, **more)}})


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
    assert "procmand 1.0   running   pid 7   up 1m 30s   memory 32.0 MiB   cpu 0.1 %" in lines(seen)[0]
    assert lines(seen)[1].startswith("workers 2   busy 1   requests/s 0.0   memory 2.0 MiB   cpu 3.0 %")
    assert line(seen, "http  ")[:5] == ["http", "http", "running", "2/2", "0"]
    assert line(seen, "http  ")[-1] == "127.0.0.1:8069"
    assert line(seen, "http.1")[:7] == ["http.1", "11", "ready", "1", "GET", "/orders", "12.0s"]
    assert line(seen, "http.9")[:5] == ["http.9", "5", "crashed", "SIGSEGV", "2.0s"]
    assert "http is parked: failed 5 times" in lines(seen)
    assert line(seen, "reload-3")[-4:] == ["http", "1/2,", "cron", "done"]
    assert lines(seen)[-1] == "q quit"


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
        assert drawn[-1].startswith("q quit   ↑↓ scroll: 0 above, ")


def test_scrolling_stops_at_the_ends():
    seen = view(*(worker(f"http.{n}", n) for n in range(100)))
    seen.offset = 50
    assert "http.50" in " ".join(lines(seen, height=20))
    seen.offset = 10_000
    assert lines(seen, height=20)[-2].startswith("http.99")
    seen.offset = -5
    lines(seen, height=20)
    assert seen.offset == 0


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
