"""What the pipeline loses: ways out that fail, a ledger that closes all the same, and its log."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from otel_usdt import outlets
from otel_usdt.metrics.ledger import check
from tests.samples import call
from tests.unit.pipelinesession import Make, shown
from tests.unit.pipelinesession import make as make


def test_a_full_disk_drops_and_the_ledger_still_closes(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    """Every span that the file did not take is dropped, counted, said once as it happens, and in numbers at the end."""
    kernel = make(file="/dev/full", console=None)
    with Path("/dev/full").open("wb", buffering=0) as full:
        session = kernel.session(full.fileno())
        for n in range(3):
            kernel.call(call(span=n + 1))
            kernel.call(call(span=n + 1, probe=1))
            assert session.drain() == 2
            session.log_losses()
        session.outlets.close()
    ledgers = session.ledgers()
    assert {name: (ledger["dropped"], ledger["exported"]) for name, ledger in ledgers.items()} == {"query": (3, 0), "parse": (3, 0)}
    assert not any(check(ledger) for ledger in ledgers.values())
    said = capfd.readouterr().err
    assert said.count(os.strerror(errno.ENOSPC)) == 1
    assert "lost: query: dropped 1 (+1)" in said
    assert "lost: query: dropped 3 (+1)" in said
    assert "/dev/full: 6 spans are not in it" in said


def test_a_console_that_nobody_reads_drops(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """`otel-usdt trace | head`: the rest is dropped and counted, and nothing raises to the end."""
    kernel = make()
    session = kernel.session()
    reader, writer = os.pipe()
    monkeypatch.setattr(outlets, "STDOUT", writer)
    kernel.call(call())
    session.drain()
    os.close(reader)
    kernel.call(call())
    kernel.call(call())
    session.drain()
    session.print_lines(last=True)
    os.close(writer)
    kernel.call(call())
    session.drain()  # standard output closed altogether
    ledger = session.ledgers()["query"]
    assert (ledger["exported"], ledger["dropped"], check(ledger)) == (1, 3, [])


def test_a_console_beside_a_file_does_not_decide(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger follows the file; what the console lost is lost there alone."""
    kernel = make(file=str(tmp_path / "out"))
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(outlets, "STDOUT", writer)
    with (tmp_path / "out").open("wb") as file:
        session = kernel.session(file.fileno())
        kernel.call(call())
        session.drain()
    os.close(writer)
    ledger = session.ledgers()["query"]
    assert (ledger["exported"], ledger["dropped"]) == (1, 0)


def test_a_batch_that_waits_is_queued(make: Make, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """In the ring, then held for its process's name, then exported: at each moment the ledger closes."""
    kernel = make()
    session = kernel.session()
    monkeypatch.setattr(session.processes._pipe, "send", lambda message: True)
    kernel.call(call(tgid=777))
    states = []
    for step in (lambda: 0, session.drain, lambda: session.processes.learn({"777": None}), session.drain):
        step()
        ledger = session.ledgers()["query"]
        states.append((ledger["queued"], ledger["exported"], check(ledger)))
    assert states == [(1, 0, []), (1, 0, []), (1, 0, []), (0, 1, [])]
    assert len(shown(capfd)) == 1


def test_a_loss_is_said_once_when_it_moves(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    """Each loss counter has its line with the total and what came on top; without a move there is silence."""
    kernel = make()
    session = kernel.session()
    session.log_losses()
    assert capfd.readouterr().err == ""
    kernel.count(0, ring_full=2)
    kernel.count(1, map_full=1)
    kernel.views["losses"][0] = 4
    session.log_losses()
    assert sorted(capfd.readouterr().err.splitlines()) == [
        "otel-usdt: lost: parse: map_full 1 (+1)",
        "otel-usdt: lost: processes that found no place in the scope map 4 (+4)",
        "otel-usdt: lost: query: ring_full 2 (+2)",
    ]
    session.log_losses()
    assert capfd.readouterr().err == ""
    kernel.count(0, ring_full=5)
    session.log_losses()
    assert capfd.readouterr().err == "otel-usdt: lost: query: ring_full 7 (+5)\n"


def test_what_is_no_loss_is_not_said(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    """Sampling, short calls and hits out of scope are as asked for."""
    kernel = make()
    session = kernel.session()
    kernel.count(0, entries=5, returns=5, calls=5, sampled_out=3, too_short=2, filtered=9, orphaned=1, unwound=1)
    session.log_losses()
    assert capfd.readouterr().err == ""


def test_a_ledger_caught_half_counted_is_read_again(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event between two of its counters is no imbalance: it is waited for, but not for ever."""
    kernel = make()
    session = kernel.session()
    kernel.count(0, entries=1, returns=1)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            kernel.count(0, calls=1, too_short=1)

    monkeypatch.setattr("otel_usdt.pipeline.time.sleep", sleep)
    assert check(session.ledgers()["query"]) == []
    assert len(slept) == 3
    kernel.count(0, entries=1)
    assert check(session.ledgers()["query"]) != []
    assert len(slept) < 100
