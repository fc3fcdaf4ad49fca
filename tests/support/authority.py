"""An authority of the test's own, and certificates of it."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import trustme

if TYPE_CHECKING:
    from pathlib import Path


class Authority:
    """Whom the clients of a test trust, and a certificate of its for this machine, in files."""

    def __init__(self, directory: Path) -> None:
        self.made = trustme.CA()
        self.file = directory / "authority.pem"
        self.cert, self.key = directory / "cert.pem", directory / "key.pem"
        self.made.cert_pem.write_to_path(str(self.file))
        self.issue()

    def issue(self) -> None:
        """A new certificate in the place of the last."""
        issued = self.made.issue_cert("localhost", "127.0.0.1")
        self.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        self.key.write_bytes(issued.private_key_pem.bytes())

    @property
    def client(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.made.configure_trust(context)
        return context
