"""TLS for the API: a server's context from a certificate and its key, or one sentence on what is wrong with them."""

from __future__ import annotations

import os
import ssl
from typing import List, NoReturn, Optional

from .errors import Failed


def make_context(cert: str, key: Optional[str]) -> ssl.SSLContext:
    """Return a context for TLS 1.2 and newer with the certificate chain in `cert`; `key` None: it is in there, too.

    Raises Failed naming the file.
    """
    for path, option in ((cert, "--tls-cert"), (key, "--tls-key")):
        if path is not None:
            _check_readable(path, option)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        # Without a password function OpenSSL would ask on the terminal, and wait.
        context.load_cert_chain(cert, key, _no_password)
    except _Encrypted:
        raise Failed(f"the key in {key or cert} needs a password; give --tls-key a file without one") from None
    except ssl.SSLError as error:
        raise Failed(_reason(error, cert, key)) from None
    except OSError as error:
        raise Failed(f"cannot read {cert} or {key or cert}: {error.strerror}") from None
    return context


def warnings(cert: str, key: Optional[str]) -> List[str]:
    """Return one sentence for each weakness of the files that an administrator should know of."""
    path = key or cert
    try:
        others = os.stat(path).st_mode & 0o044
    except OSError:
        return []
    return [f"other users can read the TLS key in {path}; close it with: chmod 600 {path}"] if others else []


class _Encrypted(Exception):
    """The key has a password."""


def _no_password() -> NoReturn:
    raise _Encrypted


def _check_readable(path: str, option: str) -> None:
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        raise Failed(f"cannot read {path} of {option}: {error.strerror}") from None


def _reason(error: ssl.SSLError, cert: str, key: Optional[str]) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"the key in {key or cert} is not that of the certificate in {cert}"
    if key is None:
        return (f"{cert} must hold a certificate and its key as PEM text, the key without a password; or give the key "
                f"with --tls-key ({error.reason or error})")
    return (f"{cert} must hold a certificate and {key} its key, both as PEM text, the key without a password "
            f"({error.reason or error})")
