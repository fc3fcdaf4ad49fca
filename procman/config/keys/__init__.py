"""Every key of the configuration, once: its name, type, default, the kinds of pools that take it, what it is for.

Reading, ``--print-config``, docs/configuration.md and procman.toml(5) are all made from these tables, so a key can't
be read and not printed, or printed and not documented. Defaults are those of the specification's classes
(`procman.core.spec`) wherever they can be. The tables know nothing of the file that is read, nor of other tables'
values: what depends on those is for `procman.config.reader` and `procman.config.rules`.
"""

from procman.config.keys.channel import CHANNEL
from procman.config.keys.daemon import AUTH, DAEMON
from procman.config.keys.database import DATABASE
from procman.config.keys.key import KINDS, Computed, Key, Named, Nested, Required, Table
from procman.config.keys.policy import BACKOFF, HOOKS, LIMITS, RELOAD
from procman.config.keys.pool import POOL
from procman.config.keys.work import WORK

# Every table there is.
TABLES = (DAEMON, AUTH, DATABASE, POOL, CHANNEL, LIMITS, BACKOFF, HOOKS, RELOAD)

__all__ = [
    "AUTH",
    "BACKOFF",
    "CHANNEL",
    "DAEMON",
    "DATABASE",
    "HOOKS",
    "KINDS",
    "LIMITS",
    "POOL",
    "RELOAD",
    "TABLES",
    "WORK",
    "Computed",
    "Key",
    "Named",
    "Nested",
    "Required",
    "Table",
]
