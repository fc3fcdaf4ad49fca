"""The corpus of raw requests through a real worker: refused with an answer and the end of the connection, or served."""

from __future__ import annotations

import json
from random import Random
from typing import TYPE_CHECKING

import pytest

from tests.integration.http.harness import Service, service
from tests.support.raw_requests import CORPUS, expected_refusal, raw

if TYPE_CHECKING:
    from collections.abc import Iterator

INVALID = sorted((CORPUS / "invalid").glob("*.http"))
VALID = sorted((CORPUS / "valid").glob("*.http"))
# The worker's limits are its own; those of the corpus are the codec's in its tests.
BY_SIZE = (413, 414, 431)


@pytest.fixture(scope="module")
def strict_web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with service(tmp_path_factory.mktemp("web"), max_body=1000) as made:
        made.start()
        yield made


def send(web: Service, data: bytes, seed: int) -> list[int]:
    """The statuses of what comes back until the connection ends, or nothing more can come."""
    random = Random(seed)
    with web.connect() as client:
        try:
            at = 0
            while at < len(data):
                size = random.choice((1, 7, 100, 65536))
                client.send(data[at : at + size])
                at += size
            client.sock.shutdown(1)
        except OSError:
            pass  # refused before all of it was sent
        statuses = []
        try:
            while True:
                statuses.append(client.read().status)
        except EOFError:
            return statuses


def test_what_is_invalid_is_refused_and_the_connection_closed(strict_web: Service) -> None:
    for number, path in enumerate(INVALID):
        status, _, after = expected_refusal(path)
        got = [code for code in send(strict_web, raw(path), number) if code != 100]
        assert got[after:] == [status] or (status in BY_SIZE and got[after:] == []), (path.name, got)
        assert got[:after] == [200] * after, path.name


def test_what_is_valid_is_served(strict_web: Service) -> None:
    for number, path in enumerate(VALID):
        expected = json.loads(path.with_suffix(".json").read_text())
        if any(one.get("method") == "HEAD" for one in expected):
            continue  # whose answers can't be told apart without knowing what was asked
        got = [code for code in send(strict_web, raw(path), number) if code != 100]
        assert got == [200] * len(expected), (path.name, got)


def test_a_corpus_leaves_a_worker_that_serves(strict_web: Service) -> None:
    assert strict_web.get("/").status == 200
    assert "Traceback" not in strict_web.workers[0].log.read_text()
