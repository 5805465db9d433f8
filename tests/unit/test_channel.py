"""Messages and descriptors between supervisor and pipeline, and what either may expect of a hostile other side."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_usdt.channel import MAX_DESCRIPTORS, MAX_MESSAGE, Channel, as_file, pair


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    ours, theirs = pair()
    other = Channel(theirs)
    yield ours, other
    ours.close()
    other.close()


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_messages_cross_whole_and_in_order(ends: tuple[Channel, Channel]) -> None:
    """Both ways; two messages are never read as one."""
    ours, theirs = ends
    assert ours.send({"who": [1, 2]})
    assert ours.send({"text": "naïve \ud800 \0"})
    assert theirs.receive() == ({"who": [1, 2]}, [])
    assert theirs.receive() == ({"text": "naïve \ud800 \0"}, [])
    assert theirs.send({"resources": {"7": None}})
    assert ours.receive() == ({"resources": {"7": None}}, [])


def test_descriptors_cross_and_are_closed_on_exec(ends: tuple[Channel, Channel], tmp_path: Path) -> None:
    """What arrives opens the same files in the order they were sent, and no child inherits it."""
    ours, theirs = ends
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    files = [os.open(tmp_path / name, os.O_RDONLY) for name in ("a", "b")]
    assert ours.send({"maps": ["a", "b"]}, files)
    for descriptor in files:
        os.close(descriptor)
    received = theirs.receive()
    assert received is not None
    message, descriptors = received
    assert message == {"maps": ["a", "b"]}
    assert [os.read(descriptor, 9) for descriptor in descriptors] == [b"a", b"b"]
    assert not any(os.get_inheritable(descriptor) for descriptor in descriptors)
    for descriptor in descriptors:
        os.close(descriptor)


def test_the_largest_message_crosses_and_a_larger_one_is_not_sent(ends: tuple[Channel, Channel]) -> None:
    """The limit is below what the kernel refuses; what is over it is told to the sender and nothing of it arrives."""
    ours, theirs = ends
    most = {"x": "y" * (MAX_MESSAGE - len(json.dumps({"x": ""})))}
    assert len(json.dumps(most)) == MAX_MESSAGE
    assert not ours.send({"x": most["x"] + "y"})
    assert ours.send(most)
    assert theirs.receive() == (most, [])


def test_when_the_other_side_is_gone_both_ways_say_so(ends: tuple[Channel, Channel]) -> None:
    """What was sent before is still read; then there is nothing, and sending is refused, without a signal."""
    ours, theirs = ends
    assert theirs.send({"last": 1})
    theirs.close()
    assert ours.receive() == ({"last": 1}, [])
    assert ours.receive() is None
    assert not ours.send({"who": [1]})


def test_a_side_that_died_with_messages_unread_is_gone_too(ends: tuple[Channel, Channel]) -> None:
    """The kernel then says connection reset, once."""
    ours, theirs = ends
    assert ours.send({"unread": 1})
    theirs.close()
    assert ours.receive() is None
    assert ours.receive() is None


def test_receive_waits_for_a_message(ends: tuple[Channel, Channel]) -> None:
    """It comes back with the message that is sent while it waits."""
    ours, theirs = ends
    sender = threading.Timer(0.05, ours.send, [{"late": True}])
    sender.start()
    assert theirs.receive() == ({"late": True}, [])
    sender.join()


def test_a_side_that_does_not_read_cannot_hold_us_up_for_long(ends: tuple[Channel, Channel]) -> None:
    """Once its buffer is full, sending is refused when patience ends; what was taken arrives, and then there is room again."""
    ours, theirs = ends
    sent = 0
    while ours.send({"n": sent, "filler": "x" * 10_000}, patience_s=0.01):
        sent += 1
        assert sent < 1000, "the buffer never fills"
    assert sent > 3
    for n in range(sent):
        received = theirs.receive()
        assert received is not None
        assert received[0]["n"] == n
    assert ours.send({"again": 1}, patience_s=0.01)


def test_patience_is_rewarded(ends: tuple[Channel, Channel]) -> None:
    """A side that reads a little later gets the message after all."""
    ours, theirs = ends
    while ours.send({"filler": "x" * 10_000}, patience_s=0):
        pass
    reader = threading.Timer(0.05, lambda: [theirs.receive() for _ in range(12)])
    reader.start()
    assert ours.send({"late": 1}, patience_s=5)
    reader.join()


@pytest.mark.parametrize("data", [b"{", b"\xff\xfe", b"[1,2]", b"7", b"null", b"[" * 100_000, b"1" * 5000])
def test_what_is_no_message_is_an_empty_one(data: bytes) -> None:
    """A hostile side's bytes neither raise nor look like its end."""
    ours, theirs = pair()
    with theirs:
        theirs.send(data)
        assert ours.receive() == ({}, [])
    ours.close()


def test_no_more_descriptors_arrive_than_are_taken(ends: tuple[Channel, Channel]) -> None:
    """A side that sends many fills no table of ours: those beyond the limit are closed by the kernel."""
    ours, theirs = ends
    before = open_descriptors()
    null = os.open(os.devnull, os.O_RDONLY)
    assert theirs.send({"many": 1}, [null] * (MAX_DESCRIPTORS + 20))
    received = ours.receive()
    assert received is not None
    assert len(received[1]) == MAX_DESCRIPTORS
    for descriptor in (null, *received[1]):
        os.close(descriptor)
    assert open_descriptors() == before


def test_a_large_value_crosses_as_a_file_in_memory(ends: tuple[Channel, Channel]) -> None:
    """A plan is larger than any message: its descriptor goes, and the other side reads it from the start."""
    ours, theirs = ends
    plan = {"sites": [{"address": i, "probe": "func:f" * 10} for i in range(4096)]}
    assert len(json.dumps(plan)) > 2 * MAX_MESSAGE
    descriptor = as_file(json.dumps(plan).encode())
    assert not os.get_inheritable(descriptor)
    assert ours.send({}, [descriptor])
    os.close(descriptor)
    received = theirs.receive()
    assert received is not None
    with os.fdopen(received[1][0]) as file:
        assert json.load(file) == plan


def test_the_ends_are_a_pair_of_packet_sockets() -> None:
    """Their messages keep their bounds; ours is not inherited by children."""
    ours, theirs = pair()
    assert theirs.type == socket.SOCK_SEQPACKET
    assert not os.get_inheritable(ours.fileno())
    ours.close()
    theirs.close()
