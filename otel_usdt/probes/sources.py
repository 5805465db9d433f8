"""Where the BPF sources and the examples lie: beside the package in a checkout, inside it in a wheel. Standard library only."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent


def bpf_folder() -> Path:
    """The folder of otel_usdt.bpf.c, record.h and include/ (the kernel headers that BCC_KERNEL_SOURCE points at)."""
    return _shipped("bpf")


def examples_folder() -> Path:
    """The folder of the ready configurations, postgresql.yaml and others."""
    return _shipped("examples")


def _shipped(name: str) -> Path:
    # The wheel's copy first: beside an installed package lies site-packages, where `bpf` could be anybody's.
    for folder in (PACKAGE / name, PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"{PACKAGE / name}: the installation is incomplete; install otel-usdt again")
