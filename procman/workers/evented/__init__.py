"""The inside of the gevent worker; only ever imported in a process that gevent has patched."""
