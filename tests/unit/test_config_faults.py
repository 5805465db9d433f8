"""A configuration's span probes, targets and sections: each rule of one key or section has its fault."""

from __future__ import annotations

import pytest

from tests.unit.configtext import faults, load, span


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("{}", "nothing to probe"),
        ("{name: a}", "nothing to probe"),
        ("{function: f, enter: func:a}", "function and enter together"),
        ("{function: f, return: func:a}", "a function's own return is its end"),
        ("{return: func:a}", "return without enter"),
        ("{probe: func:a, return: func:a}", "with probe"),
        ("{probe: func:a, mode: spans}", "can only be counted"),
        ("{probe: func:a, min_duration: 1s}", "point without duration"),
        ("{probe: func:a, attributes: {k: {arg: 1}}}", "makes no span"),
        ("{probe: nonsense}", "did you mean 'func:nonsense'"),
        ("{function: usdt:a:b}", "a function's name is wanted"),
        ("{enter: [], return: func:a}", "at least one is wanted"),
        ("{enter: func:a, return: func:b, error: {return: '< 0'}}", "error goes with function"),
        ("{function: f, error: {return: negative}}", "is no comparison"),
        ("{function: f, error: {return: '< 99999999999999999999'}}", "64 signed bits"),
        ("{function: f, error: {}}", "error.return: is missing"),
        ("{function: f, attributes: {k: {}}}", "arg: N or return: true is wanted"),
        ("{function: f, attributes: {k: {arg: 1, return: true}}}", "both arg and return"),
        ("{function: f, attributes: {k: {arg: 0}}}", "greater than or equal to 1"),
        ("{function: f, attributes: {k: {arg: one}}}", "a whole number is wanted, not 'one'"),
        ("{function: f, attributes: {k: {return: false}}}", "true is wanted"),
        ("{function: f, attributes: {k: {arg: 1, at: return}}}", "gone when it returns"),
        ("{function: f, attributes: {k: {arg: 1, max: 8}}}", "only a string has a length"),
        ("{function: f, attributes: {k: {arg: 1, as: string, max: 257}}}", "less than or equal to 256"),
        ("{enter: func:a, return: func:b, attributes: {k: {return: true}}}", "only a function has a return value"),
        (
            "{function: f, attributes: {a: {arg: 1}, b: {arg: 2}, c: {arg: 3}, d: {arg: 4}, e: {arg: 5}}}",
            "5 numbers: a span carries at most 4",
        ),
        (
            "{function: f, error: {return: '< 0'}, attributes: {a: {arg: 1}, b: {arg: 2}, c: {arg: 3}, d: {arg: 4}}}",
            "5 numbers (one for error)",
        ),
        ("{function: f, attributes: {a: {arg: 1, as: string}, b: {arg: 2, as: string}, c: {arg: 3, as: string}}}", "3 strings"),
        ("{function: f, traceparent: {arg: 1, in: sql}}", "'sql' is none of value, sqlcommenter"),
        ("{function: f, traceparent: {arg: 1}, mode: histogram}", "only mode: spans makes spans"),
        ("{probe: func:f, traceparent: {arg: 1}}", "only mode: spans makes spans"),
        ("{function: f, key: {arg: 1}}", "only enter and return can be on different threads"),
        ("{enter: func:a, return: func:b, mode: count, key: {arg: 1}}", "mode: count pairs nothing"),
        ("{enter: func:a, return: func:b, key: {arg: 1}, attributes: {k: {arg: 2, as: string}}}", "a keyed call carries numbers"),
        ("{enter: func:a, return: func:b, key: {arg: 1, duplicates: first}}", "'first' is none of fifo, last"),
        ("{enter: func:a, return: func:b, key: {arg: 1, expire: 0}}", "longer than 0"),
        ("{function: f, mode: histograms}", "did you mean 'histogram'"),
        ("{function: f, histogram: {buckets: []}}", "at least one is wanted"),
        ("{function: f, histogram: {buckets: [1ms, 1ms]}}", "1ms after 1ms: bounds rise"),
        ("{function: f, histogram: {buckets: [0, 1ms]}}", "a bound longer than 0 is wanted"),
        ("{function: f, histogram: {buckets: [5ms, 5.1ms]}}", "5ms and 5.1ms are too near to be counted apart: raise each bound by 12.5 %"),
        ("{function: f, histogram: {buckets: [1ms, 200y]}}", "is no duration"),
        ("{function: f, histogram: {bucket: [1ms]}}", "did you mean 'buckets'"),
        ("{function: f, histogram: {type: exponential}}", "no such key"),
        ("{function: f, histogram: {dimensions: [n]}}", "dimensions[0]: 'n' is none of the span probe's attributes"),
        ("{function: f, attributes: {n: {arg: 1}}, histogram: {dimensions: [n, n]}}", "dimensions[1]: 'n' is there twice"),
        ("{function: f, attributes: {n: {arg: 1}}, histogram: {dimensions: n}}", "a list is wanted"),
        ("{function: f, histogram: {max_series: 0}}", "greater than or equal to 1"),
        (
            "{function: f, error: {return: '< 0'}, histogram: {dimensions: [s]},"
            " attributes: {a: {arg: 1}, b: {arg: 2}, c: {arg: 3}, s: {arg: 4, as: string}}}",
            "5 numbers (one for error, 1 for strings that are dimensions)",
        ),
        ("{probe: func:f, histogram: {buckets: [1ms]}}", "what is only counted has no histogram"),
        ("{function: f, mode: count, histogram: {buckets: [1ms]}}", "what is only counted has no histogram"),
    ],
)
def test_a_wrong_span_probe_is_refused(body: str, told: str) -> None:
    """Each rule of a span probe has its fault."""
    assert any(told in line for line in faults(span(body))), faults(span(body))


def test_error_has_a_slot_of_its_own() -> None:
    """It reads the return value as its own type, so three numbers fit beside it, one of them the return value as another type."""
    attributes = "{a: {arg: 1}, b: {arg: 2}, d: {return: true}}"
    error = load(span(f"{{function: f, error: {{return: '!= 0'}}, attributes: {attributes}}}")).targets[0].spans[0].error
    assert error is not None
    assert error.as_ == "int32"
    told = faults(span("{function: f, error: {return: '!= 0'}, attributes: {a: {arg: 1}, b: {arg: 2}, c: {arg: 3}, d: {return: true}}}"))
    assert "5 numbers (one for error)" in told[0]


def test_two_span_probes_of_one_name_are_refused() -> None:
    """Within a target a name is used once, given or taken from the probe."""
    told = faults(span("{name: a, function: f}\n  - {name: a, function: g}\n  - function: h\n  - function: func:h"))
    assert [line.split(": ")[0] for line in told] == ["a.yaml:5:6", "a.yaml:7:5"]
    assert "two span probes are named 'a'; the first is spans[0]" in told[0]


@pytest.mark.parametrize(
    ("rest", "told"),
    [
        ("budget: {cpu: 1%}", "budget.cpu: not supported yet"),
        ("budget: {drop_rate: 1%}", "budget.drop_rate: not supported yet"),
        ("budget: {records_per_second: -1}", "greater than or equal to 0"),
        ("histogram: {type: exponential, buckets: [1ms]}", "histogram.buckets: an exponential histogram has its own buckets"),
        ("histogram: {type: explicit, max_size: 20}", "histogram.max_size: only an exponential histogram"),
        ("histogram: {type: exponent}", "did you mean 'exponential'"),
        ("histogram: {max_size: 1}", "greater than or equal to 2"),
        ("lease: {renew: auto}", "lease.renew: not supported yet"),
        ("export: {spool: {path: x}}", "export.spool.path"),
        ("export: {spool: {path: /x, max: 4KiB}}", "export.spool.max"),
        ("export: {file: }", "export.file.path: is missing"),
        ("export: {otlp: {endpoint: 'localhost:4317'}}", "http://HOST:PORT or https://HOST:PORT is wanted"),
        ("export: {otlp: {protocol: http/json}}", "'http/json' is none of grpc, http/protobuf"),
        ("export: {otlp: {timeout: 0}}", "longer than 0"),
        ("limits: {ring: 5MiB}", "a power of two from 4KiB to 1GiB is wanted"),
        ("limits: {max_probes: 0}", "greater than or equal to 1"),
    ],
)
def test_a_wrong_section_is_refused(rest: str, told: str) -> None:
    """What is not supported yet says so at its key; what is out of range says the range."""
    assert any(told in line for line in faults(span("function: f") + rest)), faults(span("function: f") + rest)


@pytest.mark.parametrize(
    ("select", "told"),
    [
        ("{}", "select: empty"),
        ("{pid: 0}", "greater than or equal to 1"),
        ("{open_ports: 80}", "open_ports: not supported yet"),
        ("{k8s_pod_name: x}", "k8s_pod_name: not supported yet"),
        ("{container: x}", "container: not supported yet"),
        ("{exe_path: postgres}", "starts with / or *"),
        ("{binary: /lib/x.so}", "needs scope: binary"),
        ("{pid: 1}, scope: cgroup", "scope: not supported yet"),
        ("{pid: 1}, build_id: abc", "8 to 128 of its hex digits"),
        ("{pid: 1}, sample: 2", "0% to 100%"),
    ],
)
def test_a_wrong_target_is_refused(select: str, told: str) -> None:
    """Each rule of a target has its fault."""
    text = f"targets: [{{select: {select}, spans: [{{function: f}}]}}]"
    assert any(told in line for line in faults(text)), faults(text)


def test_credentials_are_not_shown_in_faults() -> None:
    """A fault in the headers does not print their values."""
    told = faults(span("function: f") + "export: {otlp: {headers: {authorization: [s3cret]}, endpoint: }}\n")
    assert "s3cret" not in "".join(told)
