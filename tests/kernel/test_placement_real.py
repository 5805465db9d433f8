"""Moved probes on real functions: libc's, OpenSSL's and CPython's own, in one Python process that calls them by ctypes."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.bpftrace import bpftrace
from tests.kernel.commands import Commands
from tests.kernel.ledger import check_closed
from tests.kernel.mapped import Mapped
from tests.kernel.program import Workload, die_with_parent
from tests.kernel.session import MARK, Told
from tests.unit.planning.configured import of, planned

pytestmark = pytest.mark.kernel

PYTHON = Path("/usr/bin/python3").resolve()
# Each is called so that its first jump is taken sometimes; the jump of strtol always leaves for another function.
PURE = {
    "libc.so.6": ("inet_netof", "sigismember", "strtol"),
    "libcrypto.so.3": ("OPENSSL_sk_num", "BN_is_bit_set", "ASN1_tag2str"),
    PYTHON.name: ("_PyUnicode_IsTitlecase", "_PyUnicode_ToLowercase"),
}
# The interpreter itself calls these as well, which only the other tracer can count.
BUSY = {"libc.so.6": ("free",), PYTHON.name: ("PyObject_IsTrue",)}

VICTIM = """
import ctypes, json, os, sys
libc, crypto, python = ctypes.CDLL("libc.so.6"), ctypes.CDLL("libcrypto.so.3"), ctypes.PyDLL(None)
crypto.OPENSSL_sk_new_null.restype = crypto.BN_new.restype = crypto.ASN1_tag2str.restype = ctypes.c_void_p
stack, number = ctypes.c_void_p(crypto.OPENSSL_sk_new_null()), ctypes.c_void_p(crypto.BN_new())
for i in range(3):
    crypto.OPENSSL_sk_push(stack, number)
crypto.BN_set_word(number, ctypes.c_ulong(0x8421))
signals, text = ctypes.create_string_buffer(bytes(127) + b"x", 128), ctypes.create_string_buffer(b"-4711 and more")
calls = []
def call(library, name, *arguments):
    result = getattr(library, name)(*arguments)
    first = arguments[0]
    first = ctypes.addressof(first) if isinstance(first, ctypes.Array) else first.value or 0
    calls.append((name, first & 0xffffffff, (result or 0) & 0xffffffff))
def go():
    for i in range(-20, 90):
        call(libc, "inet_netof", ctypes.c_uint32(i * 99999999 & 0xffffffff))
        call(libc, "sigismember", signals, ctypes.c_int(i))
        call(libc, "strtol", text, None, ctypes.c_int(10))
        call(crypto, "OPENSSL_sk_num", stack if i % 3 else ctypes.c_void_p())
        call(crypto, "BN_is_bit_set", number, ctypes.c_int(i))
        call(crypto, "ASN1_tag2str", ctypes.c_int(i))
        call(python, "_PyUnicode_IsTitlecase", ctypes.c_uint32(i * 19999 & 0xffffffff))
        call(python, "_PyUnicode_ToLowercase", ctypes.c_uint32(i * 19999 & 0xffffffff))
        python.PyObject_IsTrue(ctypes.py_object([None, True, False, 0, "x", [], 1.5][i % 7]))
go()
calls.clear()
print(json.dumps({"ready": os.getpid()}), flush=True)
for line in sys.stdin:
    go()
    print(json.dumps({"calls": calls}), flush=True)
    calls.clear()
"""


@contextmanager
def victim() -> Iterator[Workload]:
    """The Python process, when every function has been bound and called once."""
    command = [str(PYTHON), "-c", VICTIM]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**MARK, "PATH": "/usr/bin"}, preexec_fn=die_with_parent
    ) as process:
        try:
            workload = Workload(PYTHON, process)
            assert workload.answer() == {"ready": process.pid}
            yield workload
        finally:
            process.kill()


def mapped(pid: int, library: str) -> Mapped:
    """The program, or one of its libraries."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return Mapped(pid, next(Path(line.split()[-1]) for line in lines if line.endswith(f"/{library}")))


def spans(functions: Mapping[str, tuple[str, ...]], *, attributes: bool) -> list[dict[str, Any]]:
    """A span probe each, named as the function."""
    read = {"a": {"arg": 1, "as": "uint32"}, "r": {"return": True, "as": "uint32"}} if attributes else {}
    how = {"attributes": read} if attributes else {"mode": "histogram"}
    return [{"name": name, "function": f"{library}:func:{name}", **how} for library, names in functions.items() for name in names]


def seen(told: Told) -> Counter[tuple[str, int, int]]:
    """Ours: function, first argument, result."""
    return Counter((span["name"], span["attributes"]["a"], span["attributes"]["r"]) for span in told.spans)


def check_moved(pid: int) -> None:
    """Every one of them has its breakpoint behind its first instruction, where the plan has it, and nothing at the first."""
    for library in PURE.keys() | BUSY.keys():
        file = mapped(pid, library)
        names = (*PURE.get(library, ()), *BUSY.get(library, ()))
        plan = planned(of(file.path, *({"name": name, "function": name, "mode": "count"} for name in names), outsiders="allow"))
        assert all(site.address > site.entry for site in plan.sites)
        for name in names:
            code = file.function(name)
            assert code[0] != 0xCC
            assert file.breakpoints(name) == 1


def test_real_functions_are_seen_whole(otel_usdt: Commands) -> None:
    """Each call with its first argument and its result, both ways of the jump that the probe sits on, as ctypes made it."""
    with victim() as workload:
        session = otel_usdt.spans(workload.pid, *spans(PURE, attributes=True), *spans(BUSY, attributes=False))
        check_moved(workload.pid)
        truth = Counter(map(tuple, workload.run("go")["calls"]))
        told = session.stop()
    check_closed({name: counts for name, counts in told.ledger.items() if name in {name for name, _, _ in truth}})
    assert seen(told) == truth
    assert truth.total() == 110 * 8
    assert all(told.ledger[name]["calls"] == told.ledger[name]["entries"] > 0 for names in BUSY.values() for name in names)


def test_two_tracers_see_the_same_of_real_functions(otel_usdt: Commands) -> None:
    """bpftrace's probes sit on the first instructions: calls, arguments and results of both are the program's, and those that only the
    interpreter knows of are as many."""
    with victim() as workload:
        libc = mapped(workload.pid, "libc.so.6")
        names = [(mapped(workload.pid, library).path, name) for library, of in PURE.items() for name in of]
        busy = [(mapped(workload.pid, library).path, name) for library, of in BUSY.items() for name in of]
        mine = f"pid == {workload.pid}"  # other processes map these files, too
        program = [
            *(f"uprobe:{path}:{name} /{mine}/ {{ @{name}_a[tid] = arg0; }}" for path, name in names),
            *(
                f"uretprobe:{path}:{name} /{mine}/ {{ @{name}[@{name}_a[tid] & 0xffffffff, retval & 0xffffffff] = count(); }}"
                for path, name in names
            ),
            *(f"uprobe:{path}:{name} /{mine}/ {{ @{name}_entries = count(); }}" for path, name in busy),
            *(f"uretprobe:{path}:{name} /{mine}/ {{ @{name}_returns = count(); }}" for path, name in busy),
        ]
        with bpftrace("\n".join(program), libc, sentinels=("insque", "remque")) as peer:
            session = otel_usdt.spans(workload.pid, *spans(PURE, attributes=True), *spans(BUSY, attributes=False))
            truth = Counter(map(tuple, workload.run("go")["calls"]))
            told, maps = session.stop(), peer.stop()
    theirs: Counter[tuple[str, int, int]] = Counter()
    for _, name in names:
        for key, times in maps[name].items():
            first, result = json.loads(f"[{key}]")
            theirs[name, first, result] += times
    assert seen(told) == theirs == truth
    for _, name in busy:
        counts = told.ledger[name]
        assert (counts["entries"], counts["calls"]) == (maps[f"{name}_entries"], maps[f"{name}_returns"])
