"""Loading a certificate and its key: for ``--check``, and for the workers that serve with them."""

from __future__ import annotations

import ssl

from procman.errors import CertificateError

_PROTECTED = "it is protected by a password; expected one that is not"


def load(certfile: str, keyfile: str | None = None) -> ssl.SSLContext:
    """The context of a server with this chain of certificates and this key, by default in the same file.

    TLS 1.2 or 1.3, with OpenSSL's defaults, for HTTP/1.1 (RFC 7301). Raises CertificateError, which says what is
    wrong with which file.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A client that negotiates again and again costs a server far more than itself.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    keyfile = keyfile or certfile
    _expect(certfile, b"-----BEGIN CERTIFICATE-----", "certificate")
    _expect(keyfile, b"PRIVATE KEY-----", "private key")
    try:
        # Without the function OpenSSL would ask for the password on the terminal.
        context.load_cert_chain(certfile, keyfile, password=_no_password)
    except _Protected:
        raise CertificateError(f"the private key in {keyfile} can't be used: {_PROTECTED}") from None
    except ssl.SSLError as error:
        raise CertificateError(_in_words(error, certfile, keyfile)) from None
    return context


class _Protected(Exception):
    pass


def _no_password() -> str:
    raise _Protected


def _expect(path: str, mark: bytes, what: str) -> None:
    try:
        with open(path, "rb") as file:
            found = mark in file.read()
    except OSError as error:
        raise CertificateError(f"can't read {path}: {error.strerror}") from None
    if not found:
        raise CertificateError(f"there is no {what} in {path}; expected one in PEM form")


def _in_words(error: ssl.SSLError, certfile: str, keyfile: str) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"the private key in {keyfile} does not belong to the first certificate in {certfile}"
    reason = (error.reason or "it is damaged").lower().replace("_", " ")
    return f"the certificate in {certfile} or the private key in {keyfile} can't be used: {reason}"
