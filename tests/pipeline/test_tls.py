"""TLS: whom the client trusts, the certificate that it shows, and both replaced while it runs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from otel_usdt.errors import UsageError
from otel_usdt.otlp.client import Accepted, Exporter, Retry
from otel_usdt.otlp.encode import encode_spans
from otel_usdt.plan import OtlpExport, OtlpSignal
from tests.pipeline.certificates import make_all, receiver
from tests.samples import PARSE, batch, call

TRACES = encode_spans(batch([call()]), [PARSE], {}, "0.1.0")[0].body
PROTOCOLS = ["grpc", "http/protobuf"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With certificates and keys."""
    made = tmp_path_factory.mktemp("tls")
    make_all(made)
    return made


@contextmanager
def exporter(port: int, protocol: Any, **config: Any) -> Iterator[Exporter]:
    with closing(Exporter(OtlpExport(f"https://localhost:{port}", protocol, timeout_s=20.0, **config))) as made:
        yield made


def shows(folder: Path, name: str) -> dict[str, Any]:
    """The settings of a client with this certificate that trusts the authority."""
    names = {"ca_file": "authority.pem", "client_certificate_file": f"{name}.pem", "client_key_file": f"{name}.key"}
    return {setting: str(folder / file) for setting, file in names.items()}


def replace_with(folder: Path, current: Path, name: str, suffix: str) -> None:
    """The file of `current` becomes another in one step, as certificates are renewed."""
    fresh = current / f"fresh{suffix}"
    fresh.write_bytes((folder / f"{name}{suffix}").read_bytes())
    fresh.replace(current / f"current{suffix}")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_authority_is_trusted_and_no_other(folder: Path, protocol: str, compression: Any) -> None:
    """https:// with the receiver's authority works; without it, or with another, the connection fails, and is retried."""
    with receiver(protocol, folder) as (port, received):
        with exporter(port, protocol, ca_file=str(folder / "authority.pem"), compression=compression) as client:
            assert client.send("traces", TRACES) == Accepted()
        for trusted in ("", str(folder / "stranger.pem")):
            with exporter(port, protocol, ca_file=trusted, compression=compression) as client:
                assert isinstance(client.send("traces", TRACES), Retry)
    assert len(received.traces) == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_client_certificate_is_shown(folder: Path, protocol: str) -> None:
    """A receiver that wants one takes ours; without one, or with a stranger's, nothing gets in."""
    with receiver(protocol, folder, mutual=True) as (port, received):
        with exporter(port, protocol, **shows(folder, "first")) as client:
            assert client.send("traces", TRACES) == Accepted()
        for config in ({"ca_file": str(folder / "authority.pem")}, shows(folder, "stranger")):
            with exporter(port, protocol, **config) as client:
                assert isinstance(client.send("traces", TRACES), Retry)
    assert received.clients == ["first"]
    assert len(received.traces) == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_renewed_client_certificate_is_shown_from_then_on(folder: Path, protocol: str, tmp_path: Path) -> None:
    """While certificate and key do not fit together, or one is gone, the old ones serve on."""
    for suffix in (".pem", ".key"):
        replace_with(folder, tmp_path, "first", suffix)
    config = shows(tmp_path, "current") | {"ca_file": str(folder / "authority.pem")}
    with receiver(protocol, folder, mutual=True) as (port, received), exporter(port, protocol, **config) as client:
        assert client.send("traces", TRACES) == Accepted()
        replace_with(folder, tmp_path, "second", ".pem")
        assert client.send("traces", TRACES) == Accepted()
        (tmp_path / "current.key").unlink()
        assert client.send("traces", TRACES) == Accepted()
        replace_with(folder, tmp_path, "second", ".key")
        assert client.send("traces", TRACES) == Accepted()
    assert received.clients == ["first", "first", "first", "second"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_renewed_authority_is_trusted_from_then_on(folder: Path, protocol: str, tmp_path: Path) -> None:
    """A receiver whose authority was replaced is reached as soon as the file has the new one."""
    replace_with(folder, tmp_path, "stranger", ".pem")
    with receiver(protocol, folder) as (port, _), exporter(port, protocol, ca_file=str(tmp_path / "current.pem")) as client:
        assert isinstance(client.send("traces", TRACES), Retry)
        replace_with(folder, tmp_path, "authority", ".pem")
        assert client.send("traces", TRACES) == Accepted()


def test_signals_may_differ_in_everything(folder: Path) -> None:
    """Spans by gRPC with one certificate, metrics by HTTP with another, other headers and gzip."""
    second = shows(folder, "second")
    with receiver("grpc", folder, mutual=True) as (port, of_spans), receiver("http/protobuf", folder, mutual=True) as (other, of_metrics):
        own = OtlpSignal(
            endpoint=f"https://localhost:{other}/v1/metrics",
            protocol="http/protobuf",
            headers={"x-tenant": "b"},
            compression="gzip",
            client_certificate_file=second["client_certificate_file"],
            client_key_file=second["client_key_file"],
        )
        with exporter(port, "grpc", headers={"x-tenant": "a"}, metrics=own, **shows(folder, "first")) as client:
            assert client.send("traces", TRACES) == Accepted()
            assert client.send("metrics", b"") == Accepted()
    assert (of_spans.clients, of_metrics.clients) == (["first"], ["second"])
    assert (of_spans.headers[0]["x-tenant"], of_metrics.headers[0]["x-tenant"]) == ("a", "b")
    assert of_metrics.headers[0]["content-encoding"] == "gzip"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_key_of_another_certificate_is_an_error_at_the_start(folder: Path, protocol: Any) -> None:
    """Said with both files, before anything is sent."""
    config = {**shows(folder, "first"), "client_key_file": str(folder / "second.key")}
    with pytest.raises(UsageError, match=r"first\.pem with client_key .*second\.key") as caught:
        Exporter(OtlpExport("https://localhost:1", protocol, **config))
    assert caught.value.hint


def test_encrypted_key_is_an_error_and_asks_nobody(folder: Path, tmp_path: Path) -> None:
    """A key with a password would make OpenSSL ask on the terminal."""
    locked = tmp_path / "locked.key"
    command: list[str | Path] = ["openssl", "pkcs8", "-topk8", "-in", folder / "first.key", "-passout", "pass:secret", "-out", locked]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(UsageError) as caught:
        Exporter(OtlpExport("https://localhost:1", **{**shows(folder, "first"), "client_key_file": str(locked)}))
    assert "unencrypted" in caught.value.hint
