"""Certificates made for a test, and receivers that show and want them."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from tests.pipeline.receivers import Received, grpc_receiver, http_receiver


def make_all(folder: Path) -> None:
    """Those of an authority, and by it of a server and two clients; and of a stranger. Each is NAME.pem and NAME.key in `folder`."""
    _make(folder, "authority")
    _make(folder, "stranger")
    for name in ("server", "first", "second"):
        _make(folder, name, "authority")


def _make(folder: Path, name: str, signer: str = "") -> None:
    """Signed by the authority `signer`, else by itself."""
    signed: list[str | Path] = ["-CA", folder / f"{signer}.pem", "-CAkey", folder / f"{signer}.key"] if signer else []
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", f"/CN={name}",
         "-addext", "subjectAltName=DNS:localhost", *signed, "-out", folder / f"{name}.pem", "-keyout", folder / f"{name}.key"],
        check=True, capture_output=True,
    )  # fmt: skip


@contextmanager
def receiver(protocol: str, folder: Path, mutual: bool = False) -> Iterator[tuple[int, Received]]:
    """With TLS; `mutual` wants a certificate of the authority's from its clients."""
    if protocol == "grpc":
        pair = (folder / "server.key").read_bytes(), (folder / "server.pem").read_bytes()
        authority = (folder / "authority.pem").read_bytes() if mutual else None
        with grpc_receiver(credentials=grpc.ssl_server_credentials([pair], authority, require_client_auth=mutual)) as running:
            yield running
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    if mutual:
        context.load_verify_locations(folder / "authority.pem")
        context.verify_mode = ssl.CERT_REQUIRED
    with http_receiver(wrap=lambda plain: context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)) as running:
        yield running
