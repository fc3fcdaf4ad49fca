"""Why a worker went: one closed vocabulary, spelled the same in log, event, metric, job row and command line."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    FINISHED = "finished"
    RELOAD = "reload"
    SCALE_DOWN = "scale_down"
    SHUTDOWN = "shutdown"
    MAX_REQUESTS = "max_requests"
    MAX_AGE = "max_age"
    MEMORY_SOFT = "memory_soft"
    MEMORY_HARD = "memory_hard"
    CPU_TIME = "cpu_time"
    REAL_TIME = "real_time"
    HANG = "hang"
    BOOT_FAILED = "boot_failed"
    BOOT_TIMEOUT = "boot_timeout"
    GRACE_EXPIRED = "grace_expired"
    OOM = "oom"
    CRASHED = "crashed"
    KILLED_BY_USER = "killed_by_user"
    LOST = "lost"
