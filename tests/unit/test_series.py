"""Series, without a kernel: whose a call is, what it is told by, and that the parts are the whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from otel_usdt.metrics.exemplars import Exemplars
from otel_usdt.metrics.histograms import HistogramSnapshot, hist_line
from otel_usdt.metrics.series import OVERFLOW, attributes_of, keys_of
from otel_usdt.metrics.temporality import Intervals
from otel_usdt.otlp.encode_histograms import encode_histograms
from otel_usdt.plan import Attribute, ErrorWhen, Key, Plan, Span, Target
from otel_usdt.spans.pairing import Pairing
from otel_usdt.stream.records import CALL, ENTER, RETURN
from tests.samples import PARSE, batch, call, plain
from tests.unit.kernelside import CPUS, Kernel
from tests.unit.test_histograms import counted

TARGETS = (Target("db", "pid", (1,), {"service.name": "orders"}),)
SERVE = Span(
    "serve",
    *(0, "histogram", "function", "func:serve", "serve"),
    dimensions=(Attribute("tenant", 1), Attribute("operation", 0, True)),
    error=ErrorWhen(3, "<", 0),
    max_series=3,
)
NUMBERS = st.integers(-3, 3)


@settings(deadline=None)
@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=20), st.sampled_from(["", "refused"]))
def test_a_key_has_what_tells_calls_apart_and_nothing_else(arguments: list[tuple[int, ...]], error_type: str) -> None:
    """Dimensions, failure, and the failing value where that is the error's type; other numbers are no part of it."""
    span = replace(SERVE, error=ErrorWhen(3, "<", 0, error_type))
    keys = keys_of(span, np.array(arguments, "i8")).tolist()
    assert keys == [[d < 0, a, b, 0, d if d < 0 and not error_type else 0] for a, b, _, d in arguments]
    assert not keys_of(PARSE, np.array(arguments, "i8")).any()


def test_a_series_is_told_by_its_dimensions_and_its_failure() -> None:
    """Strings up to their NUL, and absent when they could not be read; bytes that are no UTF-8 do no harm."""
    assert attributes_of(SERVE, (0, 77, -5, 0, 0), (b"copy\0left", b"")) == {"tenant": -5, "operation": "copy"}
    assert attributes_of(SERVE, (1, 0, 5, 0, -2), (b"old", b"")) == {"tenant": 5, "error.type": "-2"}
    assert attributes_of(replace(SERVE, error=ErrorWhen(3, "<", 0, "refused")), (1, 9, 5, 0, 0), (b"\xff\0", b"")) == {
        "tenant": 5, "operation": "\ufffd", "error.type": "refused",
    }  # fmt: skip
    assert attributes_of(SERVE, None) == OVERFLOW


def test_strings_are_named_in_the_order_of_their_slots() -> None:
    """Whatever order the dimensions are told in."""
    span = replace(SERVE, dimensions=(Attribute("second", 2, True), Attribute("first", 1, True)), error=None)
    assert attributes_of(span, (0, 0, 11, 22, 0), (b"one", b"two")) == {"second": "two", "first": "one"}
    assert attributes_of(span, (0, 0, 0, 22, 0), (b"", b"two")) == {"second": "two"}


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    made = Kernel(Plan(TARGETS, (), (PARSE, SERVE), ()))
    yield made
    made.close()


def write(kernel: Kernel, row: int, *durations: int, key: tuple[int, ...] = (), text: bytes = b"") -> None:
    """Calls of SERVE as the kernel counts them, each on another CPU."""
    for at, duration in enumerate(durations):
        cpu = at % CPUS
        kernel.views["histogram"][cpu, row] += counted(duration)
        extent = kernel.views["extents"][cpu, row]
        extent["sum_ns"] += duration
        extent["max_ns"] = max(int(extent["max_ns"]), duration)
        extent["min_ns_inverted"] = max(int(extent["min_ns_inverted"]), (1 << 64) - 1 - duration)
        kernel.views["counters"]["sum_ns"][cpu, 1] += np.uint64(duration)
    if key:
        named = kernel.views["series"][row - 2]
        named["key"]["probe"], named["key"]["failed"], named["key"]["value"] = 1, key[0], key[1:]
        named["text"][0, : len(text)] = list(text)


def test_rows_of_the_kernel_become_series(kernel: Kernel) -> None:
    """Each with its own counts and extremes; rows without calls are none, whatever is written beside them; the rest is the overflow."""
    write(kernel, 2, 1_000, 3_000, key=(0, 9, 7, 0, 0), text=b"copy")
    write(kernel, 3, key=(0, 8, 7, 0, 0), text=b"given back")
    write(kernel, 4, 50, key=(1, 9, 7, 0, -4), text=b"copy")
    write(kernel, 1, 10, 20, 30, 40)
    parse, serve = kernel.session().histograms()
    assert parse is not None
    assert (parse.count, parse.series) == (0, ())
    assert serve is not None
    assert (serve.count, serve.sum_ns) == (7, 4_150)
    assert [(one.attributes, one.calls.count, one.calls.sum_ns, one.calls.min_ns, one.calls.max_ns) for one in serve.series] == [
        ({"tenant": 7, "operation": "copy"}, 2, 4_000, 1_000, 3_000),
        ({"tenant": 7, "operation": "copy", "error.type": "-4"}, 1, 50, 50, 50),
        ({"otel.metric.overflow": True}, 4, 100, 10, 40),
    ]
    line = hist_line("serve", serve)
    assert [one["count"] for one in line["series"]] == [2, 1, 4]
    assert line["series"][0]["buckets"][0] == {"le_ns": 1024, "count": 1}


def test_series_are_points_with_their_exemplars(kernel: Kernel) -> None:
    """The attributes beside the span probe's own; overflow is a truth value; a span probe without calls apart has one point as ever."""
    write(kernel, 2, 1_000, key=(0, 9, 7, 0, 0), text=b"copy")
    write(kernel, 1, 10)
    exemplars = Exemplars([PARSE, SERVE])
    numbers = [(9, 7, 100, 1), (9, 7, 200, 1), (5, 5, 300, -1)]
    exemplars.see(batch([call(probe=1, span=n + 1, arg=arg, start_ktime_ns=9_000 - n) for n, arg in enumerate(numbers)]))
    body = encode_histograms(kernel.session().histograms(), [PARSE, SERVE], TARGETS, 1, 2, "1", exemplars.take())
    [metric] = ExportMetricsServiceRequest.FromString(body).resource_metrics[0].scope_metrics[0].metrics
    parse, apart, overflow = metric.histogram.data_points
    assert plain(parse.attributes) == {"otel_usdt.span.name": "parse", "code.function.name": "pg_parse_query"}
    own = {"otel_usdt.span.name": "serve", "code.function.name": "serve"}
    assert plain(apart.attributes) == own | {"tenant": 7, "operation": "copy"}
    assert plain(overflow.attributes) == own | {"otel.metric.overflow": True}
    assert [point.count for point in (parse, apart, overflow)] == [0, 1, 1]
    assert [one.span_id[-1] for one in apart.exemplars] == [1]
    assert not overflow.exemplars


def test_exemplars_of_any_number_of_values_are_bounded() -> None:
    """No more keys are remembered than there may be series."""
    exemplars = Exemplars([SERVE])
    for start in (0, 500):
        exemplars.see(batch([call(span=n + 1, arg=(n, n, 0, 0)) for n in range(start, start + 500)]))
    assert len(exemplars.take()) == SERVE.max_series


def test_differences_are_taken_series_by_series(kernel: Kernel) -> None:
    """One that comes later begins with all that it has."""
    intervals, session = Intervals("delta", 1), kernel.session()
    write(kernel, 2, 1_000, key=(0, 9, 7, 0, 0))
    intervals.histograms(session.histograms())
    write(kernel, 2, 3_000, 5_000)
    write(kernel, 4, 50, key=(0, 9, 8, 0, 0))
    told = intervals.histograms(session.histograms())[1]
    assert told is not None
    assert (told.count, told.sum_ns) == (3, 8_050)
    assert [(one.key, one.calls.count, one.calls.sum_ns) for one in told.series] == [((0, 9, 7, 0, 0), 2, 8_000), ((0, 9, 8, 0, 0), 1, 50)]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 1 << 40)), min_size=1, max_size=40), st.integers(1, 6), st.booleans())
def test_keyed_calls_are_counted_apart_here(calls: list[tuple[int, int]], most: int, exponential: bool) -> None:
    """In batches of any size: the first `most` values have a series each, the others one together, and all parts are the whole."""
    bounds: dict[str, Any] = {"bounds_ns": None} if exponential else {}
    span = Span("job", 0, "histogram", "pair", "p", key=Key(), dimensions=(Attribute("n", 0),), max_series=most, **bounds)
    pairing = Pairing([span])
    for key, (value, duration) in enumerate(calls):
        records = np.zeros(2, CALL)
        records["flags"], records["duration_ns"], records["start_ktime_ns"] = (ENTER, RETURN), key, (1000, 1000 + duration)
        records["arg"][0, 0] = value
        pairing.feed(records)
    told: HistogramSnapshot = pairing.accounts()[0].snapshot(span)
    first = [*dict.fromkeys(value for value, _ in calls)][:most]
    expected = Counter(value if value in first else None for value, _ in calls)
    assert {one.attributes.get("n"): one.calls.count for one in told.series} == expected
    assert sum(one.calls.sum_ns for one in told.series) == told.sum_ns == sum(duration for _, duration in calls)
    assert np.array_equal(sum(one.calls.counts for one in told.series), told.counts)
