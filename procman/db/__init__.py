"""PostgreSQL: connections, procman's schema, and the embedded server. Knows nothing of workers and units."""
