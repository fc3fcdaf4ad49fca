"""What stands around a request costs: the access log, a trusted proxy's headers, TLS.

    python benchmarks/http_edges.py [--rounds N] [--seconds S]

One daemon runs a pool of one worker for each case; wrk asks them in turns, on kept connections, so that whatever else
the machine does meets all of them. Medians are printed, and processor time beside that of plain HTTP. Needs wrk and
openssl, which makes the certificate.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.processes import Procmand, cpu_seconds, directory_with, program

APPLICATION = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "13")])
    return [b"Hello, world!"]
"""
PROXY = ("-H", "X-Forwarded-For: 192.0.2.1", "-H", "X-Forwarded-Proto: https", "-H", "X-Real-IP: 192.0.2.1")
CASES: dict[str, tuple[str, tuple[str, ...]]] = {
    "plain": ("", ()),
    "access_log text": ('access_log = "text:text.log"', ()),
    "access_log json": ('access_log = "json:json.log"', ()),
    "a trusted proxy": ('trusted_proxies = "127.0.0.1"', PROXY),
    "nobody trusted": ("", PROXY),
    "tls": ('certfile = "cert.pem"\nkeyfile = "key.pem"', ()),
}
CERTIFICATE = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"


def configuration() -> str:
    """A pool for each case."""
    text = ""
    for number, (more, _) in enumerate(CASES.values()):
        text += f'[pools.p{number}]\nkind = "http"\napp = "app:application"\nbind = "127.0.0.1:0"\n{more}\n'
    return text


def measure(url: str, seconds: float, headers: tuple[str, ...], pid: int) -> tuple[float, float]:
    """Requests per second, and microseconds of processor time for each."""
    before = cpu_seconds(pid)
    command = ["wrk", "-t1", "-c32", f"-d{max(1, round(seconds))}s", *headers, url]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    requests = re.search(r"(\d+) requests in", said)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    if requests is None or rate is None or "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(said)
    return float(rate[1]), (cpu_seconds(pid) - before) / int(requests[1]) * 1e6


def run(daemon: Procmand, rounds: int, seconds: float) -> dict[str, list[tuple[float, float]]]:
    """All cases, in turns; the first round is for warming up."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in CASES}
    places = []
    for number, (more, _) in enumerate(CASES.values()):
        daemon.wait_serving(f"p{number}", 1)
        pool = daemon.ask("status")["pools"][f"p{number}"]
        scheme = "https" if "certfile" in more else "http"
        places.append((f"{scheme}://{pool['listens'][0]}/", pool["workers"][0]["pid"]))
    for turn in range(rounds + 1):
        for (name, (_, headers)), (url, pid) in zip(CASES.items(), places, strict=True):
            figures = measure(url, seconds, headers, pid)
            if turn:
                found[name].append(figures)
    return found


def report(found: dict[str, list[tuple[float, float]]]) -> None:
    """A line for each case."""
    plain = statistics.median(cpu for _, cpu in found["plain"])
    print(f"{'':<18}{'requests/s':>12}{'CPU µs':>9}{'more':>8}")
    for name, figures in found.items():
        rate = statistics.median(rate for rate, _ in figures)
        cpu = statistics.median(cpu for _, cpu in figures)
        print(f"{name:<18}{rate:>12,.0f}{cpu:>9.1f}{cpu - plain:>+8.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each turn")
    given = parser.parse_args()
    with directory_with(app=APPLICATION) as directory:
        files = ["-keyout", str(directory / "key.pem"), "-out", str(directory / "cert.pem")]
        subprocess.run([*CERTIFICATE.split(), *files], check=True, capture_output=True)
        daemon = Procmand(directory, configuration(), command=program("procmand"), env={})
        try:
            report(run(daemon, given.rounds, given.seconds))
        finally:
            daemon.stop()


if __name__ == "__main__":
    main()
