"""What docs/cron.md shows, runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from tests.integration.crontab.harness import until

if TYPE_CHECKING:
    from tests.integration.crontab.harness import Pool

PAGE = (Path(__file__).parents[3] / "docs/cron.md").read_text()
(MODULE,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)

# What the page does not show.
STUBS = """
def delete_a_thousand_rows():
    with procman.cursor() as cr:
        cr.execute("UPDATE counter SET value = value - 1000 RETURNING value")
        return max(0, cr.fetchone()[0])

def waiting_mails():
    return ["one", "two"]

def send(mail):
    with procman.cursor() as cr:
        cr.execute("INSERT INTO ran (name) VALUES (%s)", (mail,))
"""


def test_the_entries_of_the_page_run(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "shop_cron.py").write_text(MODULE + STUBS)
    pool.ask("CREATE TABLE orders (id int); CREATE TABLE incoming (id int); INSERT INTO incoming VALUES (1), (2)")
    pool.ask("UPDATE counter SET value = 2500")

    worker = pool.start("shop_cron", PYTHONPATH=str(tmp_path))
    for name in ("shop_cron:fetch_orders", "nightly report", "clean up", "mails"):
        pool.ask("INSERT INTO procman.cron_trigger (name, at) VALUES (%s, now())", name)

    def outcomes() -> dict[str, list[str]]:
        rows = pool.ask("SELECT name, array_agg(outcome ORDER BY id) FROM procman.cron_run GROUP BY name")
        return dict(rows)

    expected = {
        "shop_cron:fetch_orders": ["done"],
        "nightly report": ["done"],
        "clean up": ["partial", "partial", "done"],
        "mails": ["done"],
    }
    until(lambda: outcomes() == expected, worker.log)
    assert pool.ask("SELECT name FROM ran ORDER BY id") == ["one", "two"]
    assert pool.ask("SELECT count(*) FROM orders") == [2]
