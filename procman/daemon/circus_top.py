"""What circus-top shows, published on the events socket once a second while somebody looks, and only then.

With Circus it comes from a program of its own (circusd-stats), which inherits the daemon's sockets; here
``circus-top --endpoint`` takes the endpoint of the events.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from procman.daemon.loop import Loop, Timer
    from procman.daemon.main import Daemon

INTERVAL = 1.0  # seconds; circus-top forgets a process after three without news


class CircusTop:
    def __init__(self, daemon: Daemon, loop: Loop) -> None:
        self._daemon = daemon
        self._loop = loop
        self._timer: Timer | None = None

    def attend(self) -> None:
        """In every turn of the loop: begin when somebody has come, end when nobody is left."""
        self._daemon.publisher.attend()
        wanted = self._daemon.publisher.figures_wanted
        if wanted and self._timer is None:
            self._publish()
        elif not wanted and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _publish(self) -> None:
        self._timer = self._loop.call_later(INTERVAL, self._publish)
        snapshot, figures = self._daemon.arbiter.snapshot(), self._daemon.figures
        arbiter = figures.arbiter(snapshot.state)
        self._pool("circus", [(arbiter["pid"], arbiter["cpu_percent"], "procmand")])
        for pool in snapshot.pools:
            workers = figures.pool(pool)["workers"]
            self._pool(pool.name, [(w["pid"], w["cpu_percent"], w["name"]) for w in workers if w["pid"] is not None])
        figures.forget()

    def _pool(self, pool: str, processes: list[tuple[int, float, str]]) -> None:
        together: list[dict[str, Any]] = []
        for pid, cpu_percent, name in processes:
            info = self._daemon.figures.circus(pid, cpu_percent)
            if isinstance(info, dict):  # else it has just ended
                together.append(info)
                self._daemon.publisher.publish_figures(pool, pid, {**info, "name": name, "subtopic": pid})
        self._daemon.publisher.publish_figures(
            pool,
            None,
            {
                "pid": [info["pid"] for info in together],
                "cpu": sum(info["cpu"] for info in together) / len(together) if together else 0.0,
                "mem": sum(info["mem"] for info in together),
                "age": max((info["age"] for info in together), default="N/A"),
            },
        )
