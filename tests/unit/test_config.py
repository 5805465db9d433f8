"""YAML -> Config: what is read, and every fault with its place."""

from __future__ import annotations

import contextlib
import json
import string
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from otel_usdt.config import Comparison, Config, load_config
from otel_usdt.config.schema import json_schema
from otel_usdt.errors import ConfigError
from otel_usdt.probespec import ProbeSpec

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
WHOLE = """\
targets:
  - name: orders-db
    select: {exe_path: /usr/lib/postgresql/*/bin/postgres}
    scope: tree
    build_id: 01234567
    capture: {text: true}
    sample: 10%
    spans:
      - name: query
        enter: usdt:postgresql:query__start
        return: [usdt:postgresql:query__done, usdt:postgresql:query__gone]
        min_duration: 500us
        attributes:
          db.query.text: {arg: 1, as: string, max: 128}
          n: {arg: 2, at: return}
      - function: func:XLogFlush
        error: {return: "< 0", type: io}
      - probe: libpq.so.5:usdt:a:b
lease: {owner: team-orders, reason: 1234, ttl: 30m, renew: never}
budget: {records_per_second: 20000}
limits: {ring: 1MiB}
"""


def load(text: str, **environ: str) -> Config:
    return load_config(text, "a.yaml", environ)


def faults(text: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text, **environ)
    return str(caught.value).splitlines()


def span(body: str) -> str:
    return f"targets:\n- select: {{pid: 1}}\n  spans:\n  - {body}\n"


def test_a_whole_configuration_is_read() -> None:
    """Each value arrives parsed, in the unit that its name says."""
    config = load(WHOLE)
    target = config.targets[0]
    query, flush, point = target.spans
    assert (target.build_id, target.sample, target.capture.text, target.outsiders) == ("01234567", 0.1, True, "refuse")
    assert query.enter == (ProbeSpec("usdt", "postgresql", "query__start"),)
    assert [str(end) for end in query.return_] == ["usdt:postgresql:query__done", "usdt:postgresql:query__gone"]
    assert query.min_duration_ns == 500_000
    assert (query.attributes["db.query.text"].max, query.attributes["n"].at, query.attributes["n"].as_) == (128, "return", "int")
    assert flush.function == ProbeSpec("func", name="XLogFlush")
    assert flush.error is not None
    assert (flush.error.when, flush.error.type, flush.mode) == (Comparison("<", 0), "io", "spans")
    assert (point.mode, str(point.probe)) == ("count", "libpq.so.5:usdt:a:b")
    assert (config.lease.ttl_s, config.lease.reason, config.budget.records_per_second) == (1800.0, "1234", 20000)
    assert (config.limits.ring_bytes, config.limits.text_ring_bytes, config.limits.max_probes) == (1 << 20, 2 << 20, 50)


def test_json_is_read_as_well() -> None:
    """The command line makes its documents as JSON, characters past U+FFFF included."""
    told = {"targets": [{"name": "\U0001f600", "select": {"pid": 7}, "build_id": None, "spans": [{"function": "a/b\tc"[:3]}]}]}
    config = load(json.dumps(told))
    assert (config.targets[0].name, config.targets[0].select.pid, config.targets[0].build_id) == ("\U0001f600", 7, None)


def test_a_configuration_cannot_be_changed() -> None:
    """The models are frozen."""
    config = load(WHOLE)
    with pytest.raises(ValueError, match="frozen"):
        config.lease.owner = "me"


def test_an_empty_section_is_the_default() -> None:
    """A section whose lines are all commented out means its defaults."""
    assert load(span("function: x") + "lease:\nexport:\nlimits:\n") == load(span("function: x"))


def test_all_faults_are_told_at_once_with_their_places() -> None:
    """One error lists every fault in the file's order."""
    text = """\
targets:
  - select: {exe_paht: /bin/x}
    scope: tre
    spans:
      - name: a
        enter: usdt:p:a
      - {name: b, function: f, min_duration: 5 parsecs}
export: {otlp: {endpoint: "${COLLECTOR}"}}
policy: x
"""
    assert faults(text) == [
        "a.yaml:2:14: targets[0].select.exe_paht: no such key (did you mean 'exe_path'?)",
        "a.yaml:3:12: targets[0].scope: 'tre' is none of pid, tree, binary (did you mean 'tree'?)",
        "a.yaml:6:9: targets[0].spans[0].enter: enter without return: name where the call ends, or use probe to count one end alone",
        "a.yaml:7:46: targets[0].spans[1].min_duration: '5 parsecs' is no duration: "
        "a number with ns, us, ms, s, m, h or d is wanted, as in 500us or 30s",
        "a.yaml:8:27: export.otlp.endpoint: the environment has no COLLECTOR; ${COLLECTOR:-default} gives a default",
        "a.yaml:9:1: policy: not supported yet",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "a.yaml:1:1: the document is empty"),
        ("- a", "the document is a list"),
        ("hello", "the document is a text"),
        ("{}", "targets: is missing"),
        ("targets: []", "a.yaml:1:10: targets: at least one is wanted"),
        ("targets: 3", "targets: a list is wanted, not '3'"),
        ("targets: [3]", "targets[0]: a mapping is wanted, not '3'"),
        ("a: b: c", "a.yaml:1:5: not YAML: mapping values are not allowed here"),
        ("a: [", "not YAML:"),
        ("a: 1\n\x01", "a.yaml:2:1: a character that YAML does not allow"),
        ("a: 1\n---\na: 2", "not YAML: but found another document"),
        ("a: 1\nb: 2\na: 3", "a.yaml:3:1: a: a second time in this mapping; the first is on line 1"),
        ("? [a]\n: 1", "a key must be text"),
        ("a: !!python/object/apply:os.system [id]", "the tag 'tag:yaml.org,2002:python/object/apply:os.system' is not known"),
        ("&a {a: *a}", "nested more than 50 deep"),
        ("- " * 3000, "nested more than 50 deep"),
        ("[" * 60 + "]" * 60, "nested more than 50 deep"),
        (r'a: "\UFFFFFFFF"', "not YAML:"),
        (r'a: "\ud800"', "surrogate"),
        (r'a: "\0"', "NUL"),
        ("a: {b: ${C}}", "needs quotes"),
        ("a: " + "b" * (1 << 20), "larger than 1 MiB"),
    ],
)
def test_what_is_no_configuration_at_all_is_refused(text: str, told: str) -> None:
    """Text, YAML and document faults are ConfigErrors with a place."""
    assert any(told in line for line in faults(text)), faults(text)


def test_nested_aliases_do_not_fill_the_memory() -> None:
    """Nine lines that mean a billion values are refused."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    assert faults("\n".join(lines)) == ["a.yaml:1:1: more than 10000 values once its aliases are followed"]


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


def test_the_environment_fills_in_values() -> None:
    """`${NAME}`, `${NAME:-default}` and `$${` work in any value, numbers too, and never in keys."""
    text = (
        span("{name: '$${a} ${B} ${C:-c} ${E:-e}', function: f}")
        + "budget:\n  records_per_second: ${RATE}\nlimits: {ring: '${RING:-1MiB}'}"
    )
    config = load(text, B="b", E="", RATE="70")
    assert config.targets[0].spans[0].name == "${a} b c e"
    assert (config.budget.records_per_second, config.limits.ring_bytes) == (70, 1 << 20)


def test_a_value_from_the_environment_is_text_and_not_yaml() -> None:
    """What a variable holds cannot add keys."""
    assert load(span("{name: '${N}', function: f}"), N="x, mode: count").targets[0].spans[0].name == "x, mode: count"


@pytest.mark.parametrize("value", ["${", "${A", "${a b}", "${1}", "${A-b}"])
def test_a_malformed_variable_is_refused(value: str) -> None:
    """A '${' that is no variable is a fault, and the message says how to write a plain one."""
    assert any("$${" in line for line in faults(span(f"{{name: '{value}', function: f}}"), A="a"))


def test_merged_mappings_give_way_to_a_mappings_own_keys() -> None:
    """`<<: *anchor` brings what the mapping itself does not say."""
    text = "targets:\n- select: {pid: 1}\n  spans:\n  - &a {name: a, function: f, mode: count}\n  - {<<: *a, name: b, function: g}\n"
    spans = load(text).targets[0].spans
    assert [(s.name, s.mode, str(s.function)) for s in spans] == [("a", "count", "func:f"), ("b", "count", "func:g")]


def test_credentials_are_not_shown_in_faults() -> None:
    """A fault in the headers does not print their values."""
    told = faults(span("function: f") + "export: {otlp: {headers: {authorization: [s3cret]}, endpoint: }}\n")
    assert "s3cret" not in "".join(told)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_are_valid(path: Path) -> None:
    """Every shipped example loads without any variable set, and the schema agrees."""
    load_config(path.read_text(), str(path), {})
    jsonschema.Draft202012Validator(json.loads(json_schema())).validate(yaml.safe_load(path.read_text()))


def test_there_are_examples() -> None:
    """The test above has something to test."""
    assert "postgresql.yaml" in [path.name for path in EXAMPLES]


def test_the_shipped_schema_is_the_models_schema() -> None:
    """config.schema.json is what `python -m otel_usdt.config` prints."""
    assert (ROOT / "otel_usdt" / "config.schema.json").read_text() == json_schema()


def test_the_schema_is_valid_and_strict() -> None:
    """It takes the whole configuration and refuses an unknown key."""
    schema = json.loads(json_schema())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    told = yaml.safe_load(WHOLE.replace("01234567", '"01234567"').replace("reason: 1234", "reason: x"))
    assert validator.is_valid(told)
    assert not validator.is_valid({**told, "policies": {}})
    assert validator.is_valid({**told, "budget": {"records_per_second": "${RATE:-5}"}})


def test_the_documentation_names_every_key() -> None:
    """Each key of the models is in docs/configuration.md, and its first example loads."""
    text = (ROOT / "docs" / "configuration.md").read_text()
    keys = {key for model in json.loads(json_schema())["$defs"].values() for key in model.get("properties", {})}
    assert sorted(key for key in keys if not any(f"{mark}{key}{end}" in text for mark in "`." for end in "`=.")) == []
    load(text.partition("```yaml\n")[2].partition("```")[0])


YAMLISH = st.text(alphabet=string.ascii_lowercase[:6] + "0123456789:-[]{}&*!<>'\"\\|%#,?@`~ \n\t$/\u00e9\ud800\U0001f600", max_size=80)


@given(st.one_of(YAMLISH, YAMLISH.map(lambda text: f"targets:\n- {text}"), st.text(max_size=60)))
@example("a: !!int 'x'")
@example("%YAML 1." + "9" * 5000 + "\n---\na")
def test_any_text_is_a_configuration_or_a_config_error(text: str) -> None:
    """No text gets anything but ConfigError out of the loader."""
    with contextlib.suppress(ConfigError):
        load(text)


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10), st.sampled_from(["usdt:a:b", "func:f", "$" + "{X}"])
)
KEYS = st.sampled_from(
    [
        "select",
        "pid",
        "exe_path",
        "scope",
        "spans",
        "function",
        "enter",
        "return",
        "attributes",
        "arg",
        "as",
        "error",
        "otlp",
        "k8s_pod",
        "probe",
    ]
)
TREES = st.recursive(SCALARS, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=5)), max_leaves=25)


@given(
    st.fixed_dictionaries(
        {"targets": st.lists(st.fixed_dictionaries({"spans": TREES, "select": TREES}), max_size=2)}, optional={"export": TREES}
    )
)
def test_any_tree_is_a_configuration_or_a_config_error(tree: object) -> None:
    """Nor does any document of the right outline, whatever types are in it."""
    with contextlib.suppress(ConfigError):
        load(json.dumps(tree))


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("127.0.0.1:9464", "127.0.0.1:9464"),
        ("127.9.9.9:65535", "127.9.9.9:65535"),
        ("localhost:1", "127.0.0.1:1"),
        ("'[::1]:0'", "[::1]:0"),
        ("'[0:0:0:0:0:0:0:1]:09'", "[::1]:9"),
    ],
)
def test_telemetry_listens_on_loopback(written: str, read: str) -> None:
    """An address and a port, written one way; without the key nothing listens."""
    assert load(span("function: f") + f"telemetry: {{listen: {written}}}").telemetry.listen == read
    assert load(span("function: f")).telemetry.listen is None


@pytest.mark.parametrize(
    "written",
    ["'9464'", "127.0.0.1", "host:1", "127.0.0.1:65536", "127.0.0.1:-1", "'::1:1'", "'[127.0.0.1]:1'", "'[fe80::1%eth0]:1'", "':1'"],
)
def test_what_is_no_place_to_listen_is_refused(written: str) -> None:
    """With an example of one."""
    [fault] = faults(span("function: f") + f"telemetry: {{listen: {written}}}")
    assert "is no place to listen: ADDRESS:PORT is wanted" in fault


@pytest.mark.parametrize("host", ["0.0.0.0", "'[::]", "192.0.2.1"])
def test_telemetry_for_other_hosts_must_be_asked_for(host: str) -> None:
    """Nobody opens a port to the network by a slip."""
    listen = f"{host}:1{chr(39) * host.startswith(chr(39))}"
    [fault] = faults(span("function: f") + f"telemetry: {{listen: {listen}}}")
    assert "is open to other hosts: listen on 127.0.0.1, or say remote: true" in fault
    assert load(span("function: f") + f"telemetry: {{listen: {listen}, remote: true}}").telemetry.remote
