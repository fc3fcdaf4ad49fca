from __future__ import annotations

import psycopg2


def test_a_fresh_database(database_url):
    connection = psycopg2.connect(database_url)
    with connection.cursor() as cr:
        cr.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
        assert cr.fetchone() == (0,)
    connection.close()
