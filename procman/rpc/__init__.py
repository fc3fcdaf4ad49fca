"""Functions called from elsewhere, over XML-RPC and JSON-RPC 2.0; each call is a unit.

    @procman.expose("product.price")
    def price(product_id: int) -> Decimal: ...

    @procman.rpc.authenticator
    def check(credentials: procman.rpc.Credentials) -> int | None: ...

An http pool whose application exposes functions serves them, before the application is asked, at ``/jsonrpc``
(JSON-RPC 2.0, single calls, notifications and batches), ``/xmlrpc``, and ``/xmlrpc/2/common`` and
``/xmlrpc/2/object`` in the shape that Odoo's clients speak. Elsewhere `application` is a WSGI application.
"""

from procman.rpc.credentials import Credentials, authenticator, user
from procman.rpc.exposure import expose
from procman.rpc.faults import AccessDenied, AccessError, Fault, UserError
from procman.rpc.web import application, serves

__all__ = [
    "AccessDenied",
    "AccessError",
    "Credentials",
    "Fault",
    "UserError",
    "application",
    "authenticator",
    "expose",
    "serves",
    "user",
]
