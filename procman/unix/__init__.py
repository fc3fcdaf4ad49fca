"""System calls, without policy."""
