"""What is read out of the target: integers of every size and sign, strings, return values, and errors by return value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.kernel.commands import Commands
from tests.kernel.ledger import all_exported, check_closed, nonzero
from tests.kernel.program import Workload

pytestmark = pytest.mark.kernel

SIZES = {"name": "sizes", "enter": "usdt:workload:sizes__start", "return": "usdt:workload:sizes__done"}


def of_each(spans: list[dict[str, Any]], *keys: str) -> list[tuple[Any, ...]]:
    """These attributes of each span, in order of time."""
    return [
        tuple(span["attributes"].get(key) for key in keys) for span in sorted(spans, key=lambda span: int(span["start_time_unix_nano"]))
    ]


def test_usdt_integers_of_every_size_and_sign(workload: Workload, otel_usdt: Commands) -> None:
    """Eight arguments from int8 to uint64, four a span: each has the program's own value, sign included."""
    formulae: list[Callable[[int], int]] = [
        lambda i: -1 - i,
        lambda i: 255 - i,
        lambda i: -300 - i,
        lambda i: 65535 - i,
        lambda i: -70000 - i,
        lambda i: 4294967295 - i,
        lambda i: -(1 << 40) - i,
        lambda i: (1 << 63) + i,
    ]
    keys = [f"a{n}" for n in range(1, 9)]
    low, high = ({key: {"arg": n} for n, key in list(enumerate(keys, 1))[part]} for part in (slice(0, 4), slice(4, 8)))
    session = otel_usdt.spans(workload.pid, {**SIZES, "name": "low", "attributes": low}, {**SIZES, "name": "high", "attributes": high})
    workload.run("sizes 101")
    told = session.stop()
    check_closed(told.ledger)
    assert of_each(told.named("low"), *keys[:4]) == [tuple(f(i) for f in formulae[:4]) for i in range(101)]
    # OTLP integers are signed: what needs 64 unsigned bits wraps.
    wrapped = [[f(i) - (1 << 64) if f(i) >= 1 << 63 else f(i) for f in formulae[4:]] for i in range(101)]
    assert of_each(told.named("high"), *keys[4:]) == [tuple(row) for row in wrapped]


def test_arguments_of_the_end_of_a_pair(workload: Workload, otel_usdt: Commands) -> None:
    """A constant and a string that the closing probe carries."""
    attributes = {"code": {"arg": 1, "at": "return"}, "word": {"arg": 2, "at": "return", "as": "string"}, "first": {"arg": 1}}
    session = otel_usdt.spans(workload.pid, {**SIZES, "attributes": attributes}, target={"capture": {"text": True}})
    workload.run("sizes 7")
    told = session.stop()
    check_closed(told.ledger)
    assert of_each(told.named("sizes"), "code", "word", "first") == [(-7, "constant", -1 - i) for i in range(7)]


def test_function_arguments(workload: Workload, otel_usdt: Commands) -> None:
    """A function's argument and its return value, as the caller passed and got them."""
    session = otel_usdt.spans(
        workload.pid, {"name": "leaf", "function": "leaf", "attributes": {"n": {"arg": 1}, "result": {"return": True}}}
    )
    workload.run("leaf 31")
    told = session.stop()
    check_closed(told.ledger)
    assert of_each(told.named("leaf"), "n", "result") == [(i, 3 * i) for i in range(31)]


def test_function_arguments_of_the_size_that_the_configuration_says(workload: Workload, otel_usdt: Commands) -> None:
    """A register says nothing of its value's type, so `as` does: int8, uint16, int32, int64, negative ones too."""
    types = {"a": "int8", "b": "uint16", "c": "int32", "d": "int64"}
    attributes = {key: {"arg": n, "as": kind} for n, (key, kind) in enumerate(types.items(), 1)}
    session = otel_usdt.spans(workload.pid, {"name": "widths", "function": "widths", "attributes": attributes})
    workload.run("widths 101")
    told = session.stop()
    check_closed(told.ledger)
    assert of_each(told.named("widths"), *types) == [(-1 - i, 65535 - i, -i if i % 2 else i, -(1 << 40) * i) for i in range(101)]


GREET = {"name": "greet", "function": "greet", "attributes": {"who": {"arg": 1, "as": "string"}, "length": {"return": True}}}


def test_text_is_captured_when_asked_for(workload: Workload, otel_usdt: Commands) -> None:
    """Strings arrive whole up to 255 bytes; one that cannot be read (a null pointer) costs its span nothing but the text."""
    session = otel_usdt.spans(workload.pid, GREET, target={"capture": {"text": True}})
    workload.run("greet 11")
    told = session.stop()
    check_closed(told.ledger)
    assert nonzero(told.ledger["greet"]) == all_exported(12)
    whole = [(f"SELECT {i}", 8) for i in range(10)]
    cut = ("SELECT 0" + "x" * 247, 511)
    assert of_each(told.named("greet"), "who", "length") == [*whole, cut, (None, -1)]


def test_text_is_cut_where_the_configuration_says(workload: Workload, otel_usdt: Commands) -> None:
    """`max: 7` keeps six bytes and the closing NUL."""
    short = {**GREET, "attributes": {"who": {"arg": 1, "as": "string", "max": 7}}}
    session = otel_usdt.spans(workload.pid, short, target={"capture": {"text": True}})
    workload.run("greet 3")
    told = session.stop()
    assert of_each(told.named("greet"), "who") == [("SELECT",)] * 3 + [(None,)]


def test_text_is_not_captured_unless_asked_for(workload: Workload, otel_usdt: Commands) -> None:
    """Without `capture: {text: true}` no text leaves the target, whatever attributes are declared."""
    session = otel_usdt.spans(workload.pid, GREET)
    workload.run("greet 5")
    told = session.stop()
    check_closed(told.ledger)
    assert nonzero(told.ledger["greet"]) == all_exported(6)
    assert not any("who" in span["attributes"] for span in told.spans)
    assert "SELECT" not in "".join(session.out)


def test_negative_return_makes_the_span_an_error(workload: Workload, otel_usdt: Commands) -> None:
    """Each call that returns below 0 has status ERROR and an error.type; the others have neither."""
    session = otel_usdt.spans(
        workload.pid, {"name": "try", "function": "fallible_long", "error": {"return": "< 0", "as": "int64", "type": "EIO"}}
    )
    truth = workload.run("fallible 61")
    told = session.stop()
    check_closed(told.ledger)
    assert truth["failed"] == 21
    assert Counter((span["status"], span["attributes"].get("error.type")) for span in told.spans) == {
        ("ERROR", "EIO"): 21,
        ("UNSET", None): 40,
    }


def test_int_function_fails_by_its_own_sign(workload: Workload, otel_usdt: Commands) -> None:
    """A C int is 32 bits of a register, and what `error` takes a function to return unless it says otherwise: -5 is below 0."""
    session = otel_usdt.spans(workload.pid, {"name": "try", "function": "fallible_int", "error": {"return": "< 0"}})
    workload.run("fallible 61")
    told = session.stop()
    check_closed(told.ledger)
    assert Counter(span["attributes"].get("error.type") for span in told.spans) == {"-5": 21, None: 40}


def test_error_type_is_the_return_value_when_none_is_named(workload: Workload, otel_usdt: Commands) -> None:
    """Without a type of its own an error is named by what was returned."""
    session = otel_usdt.spans(workload.pid, {"name": "try", "function": "fallible_long", "error": {"return": "== -5", "as": "int64"}})
    workload.run("fallible 7")
    told = session.stop()
    assert Counter(span["attributes"].get("error.type") for span in told.spans) == {"-5": 3, None: 4}
