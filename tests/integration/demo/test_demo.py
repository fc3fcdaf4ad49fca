"""The demo, called as a WSGI server calls it, in a real database."""

from __future__ import annotations

import json
import subprocess
import sys
from io import BytesIO

import psycopg2
import pytest

from procman import demo, signaling
from procman.core.spec import DatabaseSpec


class Browser:
    """Calls the application in a unit, as a worker does."""

    def __call__(self, method, path, body=b""):
        path, _, query = path.partition("?")
        environ = {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.input": BytesIO(body),
        }
        unit = signaling.begin()
        try:
            data = b"".join(demo.application(environ, self._start))
        except BaseException:
            unit.rollback()
            raise
        unit.commit()
        assert self.headers["Content-Length"] == str(len(data))
        return self.status, json.loads(data) if "json" in self.headers["Content-Type"] else data.decode()

    def _start(self, status, headers):
        self.status = int(status.split()[0])
        self.headers = dict(headers)


@pytest.fixture
def browser(database_url, monkeypatch):
    signaling.configure(DatabaseSpec(url=database_url))
    signaling.registry_loader(demo.catalogue)  # another test of this process may have put its own in place
    demo._set_up.cache_clear()
    monkeypatch.setenv("PROCMAN_WORKER", "http.7")
    yield Browser()
    signaling.configure(None)


@pytest.fixture
def rows(browser, database_url):
    """What a query answers, seen from outside."""
    connection = psycopg2.connect(database_url)
    connection.autocommit = True

    def query(statement):
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall()

    yield query
    connection.close()


def test_a_price_comes_from_the_database_and_then_from_the_cache(browser):
    assert browser("GET", "/prices/2") == (
        200,
        {"id": 2, "name": "Olive oil, 0.75 l", "price": "12.50", "worker": "http.7", "cached": False},
    )
    assert browser("GET", "/prices/2")[1]["cached"] is True


@pytest.mark.parametrize(
    ("body", "price"),
    [
        (b'{"price": "19.90"}', "19.90"),
        (b'{"price": 19.9}', "19.90"),
        (b'"0.10"', "0.10"),
        (b"7", "7.00"),
        (b"0.1", "0.10"),
        (b"0", "0.00"),
        (b"9999999999.99", "9999999999.99"),
    ],
)
def test_a_price_is_changed(browser, body, price):
    browser("GET", "/prices/1")
    status, changed = browser("PUT", "/prices/1", body)
    assert (status, changed["price"]) == (200, price)
    status, read = browser("GET", "/prices/1")
    assert (status, read["price"], read["cached"]) == (200, price, False)
    assert browser("GET", "/prices/1")[1]["cached"] is True


def test_a_change_is_sent_on_the_bus_and_enqueued_as_a_job(browser, rows):
    browser("PUT", "/prices/1", b'{"price": "19.90"}')
    assert rows("SELECT channel, message::text FROM procman.bus") == [
        (
            "prices",
            '{"id":1,"name":"Espresso beans, 1 kg","price":"19.90","was":"18.90","worker":"http.7"}',
        )
    ]
    assert browser("GET", "/jobs")[1]["pending"] == 1


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "the body is not JSON"),
        (b"{", "the body is not JSON"),
        (b"[" * 5000, "the body is not JSON"),
        (b"[]", "expected"),
        (b"{}", "expected"),
        (b"null", "expected"),
        (b"true", "expected"),
        (b'"a lot"', "expected"),
        (b'"NaN"', "expected"),
        (b"NaN", "expected"),
        (b"Infinity", "expected"),
        (b"-1", "expected"),
        (b"1.005", "expected"),
        (b"1e10", "expected"),
        (b'"1e999999"', "expected"),
        (b'"1e-999999"', "expected"),
    ],
)
def test_what_is_no_price_is_refused(browser, rows, body, reason):
    status, answer = browser("PUT", "/prices/1", body)
    assert status == 400
    assert answer["error"].startswith(reason)
    assert rows("SELECT price::text FROM demo.product WHERE id = 1") == [("18.90",)]


def test_what_is_too_long_is_refused(browser):
    assert browser("PUT", "/prices/1", b" " * 20_000)[0] == 413


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_what_does_not_exist_is_not_found(browser, method):
    status, answer = browser(method, "/prices/99", b"1")
    assert (status, answer) == (404, {"error": "there is no product 99"})


@pytest.mark.parametrize(
    "path", ["/nothing", "/prices/", "/prices/one", "/prices/1/2", "/prices/9999999999", "/prices/١"]
)
def test_other_paths_are_not_found(browser, path):
    assert browser("GET", path)[0] == 404


def test_wrong_methods_are_told_the_right_ones(browser):
    assert browser("DELETE", "/prices/1")[0] == 405
    assert browser.headers["Allow"] == "GET, PUT"
    assert browser("POST", "/slow")[0] == 405


def test_a_new_product_is_in_the_registry(browser):
    assert len(browser("GET", "/prices")[1]["prices"]) == 8
    status, added = browser("POST", "/prices", b'{"name": "Kettle <b>", "price": "39.00"}')
    assert (status, added["name"], added["price"]) == (200, "Kettle <b>", "39.00")
    assert browser("GET", f"/prices/{added['id']}")[1]["name"] == "Kettle <b>"
    assert len(browser("GET", "/prices")[1]["prices"]) == 9
    assert "Kettle &lt;b&gt;" in browser("GET", "/")[1]


@pytest.mark.parametrize(
    "body", [b"[]", b'{"price": 1}', b'{"name": " ", "price": 1}', b'{"name": "a\\u0000", "price": 1}']
)
def test_a_product_needs_a_name(browser, body):
    assert browser("POST", "/prices", body)[0] == 400


def test_the_page_shows_prices_and_worker(browser, monkeypatch):
    monkeypatch.setenv("PROCMAN_DEMO_POLL_PORT", "4711")
    status, page = browser("GET", "/")
    assert status == 200
    assert "Espresso beans, 1 kg" in page
    assert "18.90" in page
    assert "http.7" in page
    assert '!== "4711"' in page
    assert "{{" not in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")


def test_jobs_are_enqueued_and_counted(browser):
    assert browser("GET", "/jobs")[1]["pending"] == 0
    assert browser("POST", "/jobs?n=12")[1]["enqueued"] == 12
    browser("POST", "/jobs")
    assert browser("GET", "/jobs")[1]["pending"] == 13


def test_the_cron_function_leaves_a_trace(browser):
    assert browser("GET", "/cron")[1] == {"ticks": 0}
    demo.tick()
    status, answer = browser("GET", "/cron")
    assert (status, answer["ticks"], answer["worker"]) == (200, 1, "http.7")


@pytest.mark.parametrize(
    "path",
    ["/slow?seconds=x", "/slow?seconds=-1", "/slow?seconds=nan", "/burn?seconds=1e9", "/eat?mib=0", "/jobs?n=0"],
)
def test_wrong_numbers_are_refused(browser, path):
    method = "POST" if path.startswith("/jobs") else "GET"
    status, answer = browser(method, path)
    assert status == 400
    assert "expected a number from" in answer["error"]


def test_ways_to_reach_limits(browser):
    assert browser("GET", "/slow?seconds=0.01")[1]["slept"] == 0.01
    assert browser("GET", "/burn?seconds=0.01")[1]["rounds"] > 0
    assert browser("GET", "/eat?mib=1")[1]["in_all"] >= 1
    demo._eaten.clear()


def test_many_processes_may_use_it_first_at_the_same_time(database_url, browser, rows):
    program = (
        "from io import BytesIO; import json\n"
        "from procman import demo, signaling\n"
        "environ = {'REQUEST_METHOD': 'GET', 'PATH_INFO': '/prices', 'QUERY_STRING': '', 'wsgi.input': BytesIO()}\n"
        "with signaling.unit():\n"
        "    print(len(json.loads(demo.application(environ, lambda *_: None)[0])['prices']))\n"
    )
    environment = {"PROCMAN_DATABASE_URL": database_url, "PATH": "/usr/bin:/bin"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(6)
    ]
    answers = [process.communicate(timeout=60) for process in processes]
    assert answers == [(b"8\n", b"")] * 6
    assert rows("SELECT count(*) FROM demo.product") == [(8,)]
