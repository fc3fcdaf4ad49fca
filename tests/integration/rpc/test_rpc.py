"""Exposed functions, called by real clients over a real worker."""

from __future__ import annotations

import base64
import http.client
import json
import threading
import xmlrpc.client
from pathlib import Path

import psycopg2
import pytest

from procman.core.reason import Reason
from procman.core.spec import Limits
from tests.integration.http.harness import service
from tests.support.pricer import with_schema

HERE = Path(__file__).parent
ADA = "Basic " + base64.b64encode(b"ada:lovelace").decode()


@pytest.fixture
def web(short_path, database_url):
    with_schema(database_url)
    limits = Limits(time_cpu=1.0)
    with service(short_path, "exposing:application", limits=limits, working_dir=str(HERE)) as made:
        made.start(database=database_url)
        made.start(database=database_url)
        yield made


@pytest.fixture
def truth(web, database_url):
    connection = psycopg2.connect(database_url)
    connection.autocommit = True

    def ask(statement="SELECT price FROM item WHERE id = 1"):
        with connection.cursor() as cr:
            cr.execute(statement)
            return cr.fetchone()[0]

    yield ask
    connection.close()


def post(web, body, *, path="/jsonrpc", kind="application/json", authorization=ADA):
    """Status, headers and body of one request."""
    connection = http.client.HTTPConnection(*web.address, timeout=30)
    try:
        headers = {"Content-Type": kind, **({"Authorization": authorization} if authorization else {})}
        connection.request("POST", path, body if isinstance(body, (bytes, str)) else json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def call(web, method, params=(), **options):
    """The result or the error of one JSON-RPC call."""
    params = params if isinstance(params, dict) else list(params)
    _, _, body = post(web, {"jsonrpc": "2.0", "method": method, "params": params, "id": 1}, **options)
    answer = json.loads(body)
    assert answer["id"] == 1
    return answer.get("result", answer.get("error"))


def odoo(web, service, method, *args):
    """One call as odoorpc and its like make it; raises KeyError with the error."""
    answer = call(web, "call", {"service": service, "method": method, "args": list(args)}, authorization=None)
    if isinstance(answer, dict) and "data" in answer:
        raise KeyError(answer["data"]["fault_code"], answer["message"])
    return answer


def proxy(web, path="/xmlrpc", user="ada:lovelace@"):
    host, port = web.address
    return xmlrpc.client.ServerProxy(f"http://{user}{host}:{port}{path}", allow_none=True, use_builtin_types=True)


# -- JSON-RPC -------------------------------------------------------------------------------------------------


def test_arguments_by_position_and_name(web):
    assert call(web, "product.price", [1]) == {"price": "0", "currency": "EUR"}
    assert call(web, "product.price", {"product": 1, "currency": "CHF"}) == {"price": "0", "currency": "CHF"}


def test_a_call_commits_and_invalidates(web, truth):
    with web.connect() as first, web.connect() as second:
        body = json.dumps({"jsonrpc": "2.0", "method": "cached", "params": [1], "id": 1}).encode()
        headers = {"Content-Type": "application/json"}
        for client in (first, second):
            assert json.loads(client.request("POST", "/jsonrpc", body, **headers).body)["result"] == 0
        assert call(web, "product.set_price", [1, 5]) == 5
        assert truth() == 5
        for client in (first, second):
            assert json.loads(client.request("POST", "/jsonrpc", body, **headers).body)["result"] == 5


def test_a_fault_rolls_back(web, truth):
    error = call(web, "product.set_price", [1, -5])
    assert (error["code"], error["message"], error["data"]["fault_code"]) == (200, "a price is positive", 2)
    assert error["data"]["name"] == "procman.rpc.faults.UserError"
    assert truth() == 0


def test_a_result_that_can_not_be_sent_rolls_back(web, truth):
    assert call(web, "public.unsendable")["code"] == -32603
    assert truth() == 0


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [("nothing", [], -32601), ("product.price", [1, 2], -32602), ("product.price", {"x": 1}, -32602)],
)
def test_calls_that_can_not_be(web, method, params, code):
    assert call(web, method, params)["code"] == code


def test_an_error_tells_only_those_who_are_known(web):
    assert call(web, "fail")["message"] == "fail failed: LookupError: a secret"
    assert call(web, "public.fail")["message"] == "public.fail failed"
    log = web.workers[0].log.read_text() + web.workers[1].log.read_text()
    assert log.count("LookupError: a secret") == 2


def test_who_is_unknown_learns_nothing(web):
    for authorization in (None, "Basic " + base64.b64encode(b"ada:byron").decode(), "Basic !", "Bearer x", "Digest x"):
        assert call(web, "product.price", [1, 2, 3], authorization=authorization)["data"]["fault_code"] == 3


def test_a_token(web):
    assert call(web, "whoami", authorization="Bearer a-token")[0] == 9
    assert call(web, "whoami")[0] == 7


def test_a_batch(web, truth):
    calls = [
        {"jsonrpc": "2.0", "method": "product.set_price", "params": [1, 3], "id": "a"},
        {"jsonrpc": "2.0", "method": "product.set_price", "params": [1, -1], "id": "b"},
        {"jsonrpc": "2.0", "method": "product.set_price", "params": [1, 4]},
        {"jsonrpc": "2.0", "method": "report.items", "id": "d"},
        7,
        {"jsonrpc": "2.0", "method": "nothing", "id": "c"},
    ]
    status, _, body = post(web, calls)
    a, b, d, seven, c = json.loads(body)
    assert status == 200
    assert (a["id"], a["result"]) == ("a", 3)
    assert b["error"]["message"] == "a price is positive"
    assert d["result"][0][0] == [1, 4]
    assert (seven["id"], seven["error"]["code"]) == (None, -32600)
    assert c["error"]["code"] == -32601
    assert truth() == 4


def test_notifications_are_not_answered(web, truth):
    note = {"jsonrpc": "2.0", "method": "product.set_price", "params": [1, 8]}
    assert post(web, note)[::2] == (204, b"")
    assert truth() == 8
    assert post(web, [note, {**note, "params": [1, -1]}, {**note, "method": "nothing"}])[::2] == (204, b"")


def test_what_loses_is_done_again(web, truth):
    failures = []

    def many():
        for _ in range(20):
            answer = call(web, "product.raise", [1])
            if not isinstance(answer, int):
                failures.append(answer)

    threads = [threading.Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Two workers: each attempt has one rival, and five are made.
    assert truth() == 80 - len(failures)
    assert all(failure["code"] == -32000 for failure in failures)
    assert len(failures) < 5


@pytest.mark.parametrize(
    ("path", "kind", "status"),
    [
        ("/jsonrpc", "text/plain", 415),
        ("/jsonrpc", "application/x-www-form-urlencoded", 415),
        ("/xmlrpc", "application/json", 415),
        ("/jsonrpc", "application/json; charset=utf-8", 200),
    ],
)
def test_media_types(web, path, kind, status):
    assert post(web, "{}", path=path, kind=kind)[0] == status


def test_only_posts_and_only_its_own_paths(web):
    assert web.get("/jsonrpc").status == 405
    assert web.get("/jsonrpc").headers["allow"] == "POST"
    assert web.get("/elsewhere").text == "the application: /elsewhere"
    assert web.get("/xmlrpc/2/db").text == "the application: /xmlrpc/2/db"


# -- streaming ------------------------------------------------------------------------------------------------


def test_pages_come_as_one_array(web):
    _, headers, body = post(web, {"jsonrpc": "2.0", "method": "report.items", "id": 1})
    pages = json.loads(body)["result"]
    assert [row[0] for page in pages for row in page] == list(range(1, 1 + sum(map(len, pages))))
    assert headers.get("Content-Length") is None
    with proxy(web, user="") as server:
        assert server.report.items() == pages


def test_a_report_that_fails_at_once_is_a_fault(web):
    assert call(web, "report.items", [1])["code"] == -32603


def test_a_report_that_fails_on_its_way_is_not_taken_for_whole(web, truth):
    assert truth("SELECT max(id) FROM item") > 2
    with web.connect() as client:
        body = json.dumps({"jsonrpc": "2.0", "method": "report.items", "params": [3], "id": 1}).encode()
        answer = client.request("POST", "/jsonrpc", body, **{"Content-Type": "application/json"})
    assert not answer.complete or answer.status >= 500


# -- XML-RPC --------------------------------------------------------------------------------------------------


def test_a_client_of_the_standard_library(web, truth):
    with proxy(web) as server:
        assert server.product.price(1) == {"price": "0", "currency": "EUR"}
        assert server.product.set_price(1, 6) == 6
        with pytest.raises(xmlrpc.client.Fault) as caught:
            server.product.set_price(1, -6)
    assert (caught.value.faultCode, caught.value.faultString) == (2, "a price is positive")
    assert truth() == 6


def test_values_there_and_back(web):
    with proxy(web, user="") as server:
        echo, moment, data, nothing, large = server.public.values({"é": ["<&>", b"\0", True, None]})
    assert echo == {"é": ["<&>", b"\0", True, None]}
    assert moment.isoformat() == "2026-03-01T00:00:00"
    assert (data, nothing, large) == (b"\xff", None, 2**40)


def test_introspection_and_several_calls_at_once(web):
    with proxy(web) as server:
        assert "product.price" in server.system.listMethods()
        assert server.system.methodHelp("product.price") == "The price of a product."
        several = xmlrpc.client.MultiCall(server)
        several.product.set_price(1, 2)
        several.product.set_price(1, -2)
        several.cached(1)
        results = several()
        assert (results[0], results[2]) == (2, 2)
        with pytest.raises(xmlrpc.client.Fault, match="a price is positive"):
            results[1]
    with proxy(web, user="") as server:
        listed = server.system.listMethods()
        assert "public.values" in listed
        assert "product.price" not in listed


def test_no_xml(web):
    _, _, body = post(web, "<no", path="/xmlrpc", kind="text/xml")
    with pytest.raises(xmlrpc.client.Fault) as caught:
        xmlrpc.client.loads(body)
    assert caught.value.faultCode == -32700


# -- as Odoo's clients do it ----------------------------------------------------------------------------------


def test_an_external_api_client_over_xml_rpc(web):
    with proxy(web, "/xmlrpc/2/common", "") as common:
        assert common.version()["server"] == "procman"
        assert common.authenticate("", "ada", "byron", {}) is False
        user = common.authenticate("", "ada", "lovelace", {})
    assert user == 7
    with proxy(web, "/xmlrpc/2/object", "") as models:
        assert models.execute_kw("", user, "lovelace", "product", "price", [1], {"currency": "CHF"}) == {
            "price": "0",
            "currency": "CHF",
        }
        assert models.execute("", user, "lovelace", "product", "set_price", 1, 4) == 4
        for wrong in (("", user, "byron"), ("", 8, "lovelace"), ("", False, "lovelace")):
            with pytest.raises(xmlrpc.client.Fault) as caught:
                models.execute_kw(*wrong, "product", "price", [1])
            assert caught.value.faultCode == 3


def test_an_external_api_client_over_json_rpc(web):
    user = odoo(web, "common", "login", None, "ada", "lovelace")
    assert user == 7
    assert odoo(web, "object", "execute_kw", None, user, "lovelace", "product", "price", [1])["currency"] == "EUR"
    with pytest.raises(KeyError, match="-32601"):
        odoo(web, "object", "execute_kw", None, user, "lovelace", "product", "explode", [])
    with pytest.raises(KeyError, match="-32601"):
        odoo(web, "db", "drop", "master", "db")
    with pytest.raises(KeyError, match="not among the configured ones"):
        odoo(web, "object", "execute_kw", "another", user, "lovelace", "product", "price", [1])


# -- limits and faults ----------------------------------------------------------------------------------------


def test_a_limit_ends_a_call(web):
    status, headers, body = post(web, {"jsonrpc": "2.0", "method": "public.burn", "id": 1})
    assert status == 503
    assert headers["Retry-After"] == "1"
    assert json.loads(body)["error"]["message"] == "the call was ended by a limit: cpu_time"
    assert any(worker.process.poll() is None for worker in web.workers)
    assert Reason.CPU_TIME in "".join(worker.log.read_text() for worker in web.workers)


def test_the_database_is_away(web, database_url, postgres_server):
    name = psycopg2.extensions.parse_dsn(database_url)["dbname"]
    postgres_server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
    postgres_server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    status, headers, body = post(web, {"jsonrpc": "2.0", "method": "cached", "params": [1], "id": 1})
    assert status == 503
    assert headers["Retry-After"] == "1"
    assert json.loads(body)["error"]["code"] == -32000
    with proxy(web, user="") as server, pytest.raises(xmlrpc.client.ProtocolError, match="503"):
        server.cached(1)
    postgres_server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    assert call(web, "cached", [1]) == 0
