"""Plans of configurations that are written as Python values, and real processes to plan for."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from otel_usdt.config import load_config
from otel_usdt.elf.binary import open_binary
from otel_usdt.errors import OtelUsdtError
from otel_usdt.plan import Plan, Site, Span
from otel_usdt.planning import make_plan


def compiled(compiler: str, folder: Path, name: str, source: str, *flags: str) -> Path:
    text, made = folder / f"{name}.{'cc' if compiler == 'g++' else 'c'}", folder / name
    text.write_text(source)
    subprocess.run([compiler, "-O2", "-Wl,--build-id=sha1", "-o", made, text, *flags], check=True)
    return made


@contextmanager
def running(path: Path, *arguments: str) -> Iterator[int]:
    """A process of the program that waits for its standard input; its pid."""
    with subprocess.Popen([path, *arguments], stdin=subprocess.PIPE) as process:
        try:
            while "libc" not in Path(f"/proc/{process.pid}/maps").read_text():
                pass  # its loader is still at work
            yield process.pid
        finally:
            process.kill()


def planned(*targets: dict[str, Any], **more: Any) -> Plan:
    """The plan of a configuration of these targets."""
    return make_plan(load_config(json.dumps({"targets": targets, **more}), "test.yaml", {}), {}, Path("/"), disassembled=True)


def of(path: Path, *spans: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A target: every process that runs the file."""
    return {"select": {"binary": str(path)}, "scope": "binary", "spans": spans, **more}


def fault(kind: type[OtelUsdtError], *targets: dict[str, Any], **more: Any) -> OtelUsdtError:
    with pytest.raises(kind) as caught:
        planned(*targets, **more)
    assert type(caught.value) is kind
    return caught.value


def sites(plan: Plan, name: str) -> list[Site]:
    [index] = [i for i, span in enumerate(plan.spans) if span.name == name]
    return [site for site in plan.sites if site.span == index]


def span(plan: Plan, name: str) -> Span:
    [found] = [span for span in plan.spans if span.name == name]
    return found


def address(path: Path, name: str) -> int:
    with open_binary(str(path)) as binary:
        [symbol] = binary.functions().find(name)
        return symbol.address
