"""psycopg2 in a process that gevent has patched; in a process of its own, since patching can't be undone."""

from __future__ import annotations

import socket
import subprocess
import sys

PATCHED = """
from gevent import monkey
monkey.patch_all()
import sys
import gevent, psycopg2
from procman.workers.evented.waiting import let_psycopg2_cooperate
let_psycopg2_cooperate()
url = sys.argv[1]
"""


def run(program: str, url: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PATCHED + program, url], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_others_run_while_a_statement_does(database_url):
    program = """
order = []
def ask(seconds):
    connection = psycopg2.connect(url)
    connection.cursor().execute("SELECT pg_sleep(%s)", [seconds])
    order.append(seconds)
    connection.close()
gevent.joinall([gevent.spawn(ask, seconds) for seconds in (0.6, 0.3, 0.0)], raise_error=True)
print(order)
"""
    assert run(program, database_url) == "[0.0, 0.3, 0.6]"


def test_a_statement_that_was_left_alone_spoils_no_other(database_url):
    program = """
connection = psycopg2.connect(url)
try:
    with gevent.Timeout(0.1):
        connection.cursor().execute("SELECT pg_sleep(5), 'not for you'")
except gevent.Timeout:
    print("left,", "closed" if connection.closed else "open")
try:
    connection.cursor()
except psycopg2.InterfaceError as error:
    print(error)
"""
    assert run(program, database_url) == "left, closed\nconnection already closed"


def test_an_error_of_a_statement_leaves_the_connection_usable(database_url):
    program = """
connection = psycopg2.connect(url)
connection.autocommit = True
cursor = connection.cursor()
try:
    cursor.execute("SELECT 1 / 0")
except psycopg2.errors.DivisionByZero:
    pass
cursor.execute("SELECT 7")
print(cursor.fetchone())
connection.close()
"""
    assert run(program, database_url) == "(7,)"


def test_connecting_to_a_server_that_says_nothing_ends():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        program = """
try:
    psycopg2.connect(url)
except psycopg2.OperationalError as error:
    print(error)
"""
        said = run(program, f"host=127.0.0.1 port={port} dbname=x user=x sslmode=disable connect_timeout=1")
    assert said == "connection to server failed: timeout expired"
