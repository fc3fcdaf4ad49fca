"""The child side: what runs in templates and workers."""
