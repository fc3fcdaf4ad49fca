"""What a caller gets instead of a result.

Fault                    a call failed; ``code`` tells the caller how
├── UserError            what was asked for can't be done, and the text is for the person who asked
├── AccessDenied         nobody knows who is calling
├── AccessError          it is known who is calling, and that one may not
├── Temporary            the same call may well succeed in a moment
├── ParseError           the body is not what its media type promises
├── InvalidRequest       it is well formed and no call
├── MethodNotFound       no function of that name is exposed
├── InvalidParams        the function does not take these arguments
└── InternalError        the function raised something else, or returned what can't be sent

An application raises the first three, or its own subclasses. The codes of the last five are those of JSON-RPC 2.0
section 5.1, which took them from XML-RPC's "Specification for Fault Code Interoperability"; 1 to 4 are Odoo's.
"""

from __future__ import annotations

from procman.errors import ProcmanError


class Fault(ProcmanError):
    """A call failed. ``str()`` is sent to the caller as it is."""

    code = 1


class UserError(Fault):
    """What was asked for can't be done."""

    code = 2


class AccessDenied(Fault):
    """Who is calling is not known."""

    code = 3


class AccessError(Fault):
    """Who is calling may not do this."""

    code = 4


class Temporary(Fault):
    """The server could not do it now: a limit, a database that is away, a transaction that lost."""

    code = -32000


class ParseError(Fault):
    """The body can't be read."""

    code = -32700


class InvalidRequest(Fault):
    """The body is no call."""

    code = -32600


class MethodNotFound(Fault):
    """No function of that name is exposed."""

    code = -32601


class InvalidParams(Fault):
    """The function does not take these arguments."""

    code = -32602


class InternalError(Fault):
    """The function failed in a way that it did not foresee."""

    code = -32603
