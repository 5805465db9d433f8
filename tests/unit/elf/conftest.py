"""Small C programs, compiled where the tests run: what they test are real files by the real tool chain."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Build = Callable[..., Path]

PROBED = """
#define _SDT_HAS_SEMAPHORES 1
#include <sys/sdt.h>
#include <stdio.h>
#define SEMAPHORE(name) __extension__ unsigned short app_##name##_semaphore __attribute__((used, section(".probes")))
SEMAPHORE(work__start); SEMAPHORE(work__done); SEMAPHORE(shape);
int counter = 7;
char letters[16];
static int __attribute__((noinline)) work(int a, long b) {
    STAP_PROBE2(app, work__start, a, b);
    int r = a * 3 + (int)b;
    if (r > 10) { STAP_PROBE1(app, work__done, r); return r; }
    STAP_PROBE1(app, work__done, -r);
    return -r;
}
int main(int argc, char **argv) {
    STAP_PROBE4(app, shape, counter, (short)-2, (unsigned char)argc, 1.5);
    printf("%d\\n", work(argc, (long)argv));
    return letters[0];
}
"""


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Compiles a C text with gcc: build(source, *flags) -> the file."""

    def compile_(source: str, *flags: str, name: str = "program") -> Path:
        folder = tmp_path_factory.mktemp("build")
        text = folder / "source.c"
        text.write_text(source)
        made = folder / name
        subprocess.run(["gcc", "-O2", "-Wl,--build-id=sha1", "-o", made, text, *flags], check=True)
        return made

    return compile_


@pytest.fixture(scope="session")
def probed(build: Build) -> Path:
    """A position-independent program with USDT probes that have semaphores."""
    return build(PROBED)
