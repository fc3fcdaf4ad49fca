"""How pools treat their clients: connections, bodies, the proxies in between, TLS, the long poll."""

from __future__ import annotations

from procman.config.access import AccessLogPlace
from procman.config.addresses import FilePath
from procman.config.keys.key import Computed, key
from procman.config.proxies import TrustedProxy
from procman.config.values import Boolean, Duration, Integer, ListOf, Size, Word
from procman.core.spec import PROXY_HEADERS, HttpWork, Kind, LongpollingWork

HTTP_KEYS = (
    key(
        "threads",
        Integer(1, 1024),
        "Units per worker at a time, each in a thread of its own: for applications that wait much.",
        of=HttpWork,
        kinds={Kind.HTTP},
    ),
    key(
        "keepalive",
        Duration(zero=True),
        "How long an idle connection is kept for the next request; 0 closes it after each.",
        of=HttpWork,
        kinds={Kind.HTTP},
    ),
    key("header_timeout", Duration(), "How long a request's head may take to come.", of=HttpWork, kinds={Kind.HTTP}),
    key("max_body", Size(), "A longer request body is refused with 413.", of=HttpWork, kinds={Kind.HTTP}),
    key("body_buffer", Size(), "A longer request body goes to disk.", of=HttpWork, kinds={Kind.HTTP}),
    key(
        "body_rate",
        Size(),
        "A slower request body, in bytes per second after the first `header_timeout`, is given up with 408.",
        of=HttpWork,
        kinds={Kind.HTTP},
    ),
    key(
        "response_buffer",
        Size(),
        "So much of a streamed response waits on disk for a slow client; beyond, the unit waits.",
        of=HttpWork,
        kinds={Kind.HTTP},
    ),
    key(
        "max_connections",
        Integer(1, zero_is_at_once=True),
        "Connections per worker; one more is answered with 503.",
        of=HttpWork,
        kinds={Kind.HTTP},
    ),
    key(
        "trusted_proxies",
        ListOf(TrustedProxy(), empty=True),
        "Whose word about their clients is believed. From all others such headers are left out.",
        of=HttpWork,
        kinds={Kind.HTTP},
    ),
    key(
        "proxy_headers",
        ListOf(Word(PROXY_HEADERS, str)),
        "What these proxies write; what else they let pass is the client's own word: [HTTP](http.md).",
        of=HttpWork,
        kinds={Kind.HTTP},
    ),
    key(
        "proxy_protocol",
        Boolean(),
        "Each connection of theirs begins with a header of the PROXY protocol, version 1 or 2.",
        of=HttpWork,
        kinds={Kind.HTTP},
    ),
    key(
        "certfile",
        FilePath("a file"),
        "Certificate and its chain, in PEM form: TLS is spoken on all addresses but unix sockets.",
        default=Computed("none: plain HTTP"),
        kinds={Kind.HTTP},
    ),
    key(
        "keyfile",
        FilePath("a file"),
        "Its private key, without a password.",
        default=Computed("in `certfile`, too"),
        kinds={Kind.HTTP},
    ),
    key(
        "access_log",
        AccessLogPlace(),
        "A line for each request, on the standard output or at the end of a file: [HTTP](http.md).",
        of=HttpWork,
        kinds={Kind.HTTP},
    ),
    key(
        "poll_timeout",
        Duration(),
        "A long poll without news is answered after this.",
        of=LongpollingWork,
        kinds={Kind.LONGPOLLING},
    ),
)
