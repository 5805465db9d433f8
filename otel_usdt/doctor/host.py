"""What else lies on this host: BCC or a kernel image, the BPF file system, OBI."""

from __future__ import annotations

from pathlib import Path

from otel_usdt.doctor.check import Check, not_tried
from otel_usdt.doctor.kernel import ROOT, read
from otel_usdt.errors import CompilerMissing
from otel_usdt.probes.image import cached_image_path, python_with_bcc


def compiler(image: Path | None, bcc: tuple[str, str] | None) -> Check:
    """What makes the kernel image, or the image itself: either is enough."""
    has_bcc = f"BCC {bcc[1]} of {bcc[0]}" if bcc else "no BCC"
    if image is not None:
        return Check("kernel image", "ok", f"{image}; {has_bcc}")
    if bcc is not None:
        return Check("kernel image", "ok", f"none yet: {has_bcc} makes it at first use, in a second")
    return Check("kernel image", "fail", "no fitting image, and no Python here has BCC to make one", CompilerMissing.hint)


def kernel_image() -> Check:
    """This host's."""
    try:
        image = cached_image_path()
    except PermissionError:  # another user's cache
        image = None
    return compiler(image, python_with_bcc())


def bpffs(root: Path = ROOT) -> Check:
    """Where OBI pins its map. We pin nothing."""
    mounts = [line.split() for line in (read(root / "proc/self/mounts") or "").splitlines()]
    if any(mount[1:3] == ["/sys/fs/bpf", "bpf"] for mount in mounts):
        return Check("bpffs", "ok", "mounted at /sys/fs/bpf")
    return Check("bpffs", "ok", "not mounted at /sys/fs/bpf: needed only next to OBI")


def obi(root: Path = ROOT) -> Check:
    """The map in which OBI keeps the trace that each thread works for."""
    name, pin = "OBI", "sys/fs/bpf/otel/traces_ctx_v1"
    try:
        if (root / pin).exists():
            return Check(name, "ok", f"its trace context is at /{pin}")
    except PermissionError:
        return not_tried(name)
    return Check(name, "ok", "no trace context of OBI here")
