"""Clients that keep asking while something happens to the server, and remember every answer."""

from __future__ import annotations

import http.client
import threading
from dataclasses import dataclass, field


@dataclass
class Traffic:
    """Threads that send requests, one after the other each, until `stop`.

    ``keep_alive`` clients reuse their connection and open a new one only when the server has announced its close.
    A request that gets no answer is lost, and there is no excuse for one.
    """

    address: str
    path: str = "/"
    clients: int = 4
    keep_alive: bool = True
    answers: list[tuple[int, bytes]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def __enter__(self) -> Traffic:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, more: int, timeout: float = 60.0) -> None:
        """Wait until this many more answers have come."""
        wanted = len(self.answers) + more
        waiting = threading.Event()
        for _ in range(int(timeout * 100)):
            if len(self.answers) >= wanted or self.lost:
                return
            waiting.wait(0.01)
        raise AssertionError(f"only {len(self.answers)} of {wanted} answers came in {timeout} s")

    def _run(self) -> None:
        connection = http.client.HTTPConnection(self.address, timeout=30)
        while not self._stop.is_set():
            try:
                connection.request("GET", self.path)
                response = connection.getresponse()
                self.answers.append((response.status, response.read()))
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(f"{type(error).__name__}: {error}")
                connection.close()
            if not self.keep_alive:
                connection.close()
        connection.close()
