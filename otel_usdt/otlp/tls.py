"""Certificates and the client's key: read and checked once before anything is sent, and again whenever their files change."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from otel_usdt.errors import UsageError
from otel_usdt.plan import OtlpExport

_HINT = "a file of PEM {what} that the pipeline's user can read is wanted"


@dataclass(frozen=True, slots=True)
class Pem:
    """PEM texts; None for the default authorities, and for no client certificate."""

    authorities: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = None


def check_tls(config: OtlpExport) -> None:
    """UsageError when a file cannot be read, or does not hold what it should, or when the client's key is not its certificate's."""
    if config.ca_file or config.client_certificate_file or config.client_key_file:
        tls_context(config)


def tls_context(config: OtlpExport) -> ssl.SSLContext:
    """For a client. Without a `ca_file` it trusts the system's authorities. UsageError as in `check_tls`."""
    pem = read_pem(config)
    try:
        context = ssl.create_default_context(cadata=pem.authorities.decode("ascii") if pem.authorities is not None else None)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise UsageError(f"otlp ca_file {config.ca_file}: {error}", hint=_HINT.format(what="certificates")) from error
    if pem.certificate is None:
        return context
    files = config.client_certificate_file, config.client_key_file
    try:
        context.load_cert_chain(*files, password="")  # else OpenSSL would ask the terminal for the password of an encrypted key
    except (OSError, ValueError) as error:
        hint = "a PEM certificate and its own key, unencrypted, are wanted"
        raise UsageError(f"otlp client_certificate {files[0]} with client_key {files[1]}: {error}", hint=hint) from error
    return context


def read_pem(config: OtlpExport) -> Pem:
    """What the files hold, unchecked; UsageError when one cannot be read, or when of the client's certificate and key one is missing."""
    if bool(config.client_certificate_file) != bool(config.client_key_file):
        one, other = ("certificate", "key") if config.client_certificate_file else ("key", "certificate")
        raise UsageError(f"otlp client_{one} without client_{other}", hint="name both, or neither")
    return Pem(
        _read("ca_file", config.ca_file, "certificates"),
        _read("client_certificate", config.client_certificate_file, "certificates"),
        _read("client_key", config.client_key_file, "with the client's key"),
    )


class Watch:
    """Tells when one of the files has been written or replaced."""

    def __init__(self, config: OtlpExport) -> None:
        self._files = tuple(filter(None, (config.ca_file, config.client_certificate_file, config.client_key_file)))
        self._seen = _states(self._files)

    def changed(self) -> bool:
        """Since it was asked last. A file that is gone is no change: the next one is on its way."""
        states = _states(self._files)
        if states == self._seen or None in states:
            return False
        self._seen = states
        return True


def _read(what: str, path: str, content: str) -> bytes | None:
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise UsageError(f"otlp {what} {path}: {error}", hint=_HINT.format(what=content)) from error


def _states(files: Iterable[str]) -> tuple[tuple[int, int, int, int] | None, ...]:
    return tuple(map(_state, files))


def _state(path: str) -> tuple[int, int, int, int] | None:
    """What differs after a write, a rename over it, or when a link in the path leads elsewhere, as in a mounted Kubernetes secret."""
    try:
        told = os.stat(path)  # noqa: PTH116 - a few times a second, and of a path that may hold anything
    except (OSError, ValueError):
        return None
    return told.st_dev, told.st_ino, told.st_size, told.st_mtime_ns
