"""YAML -> Config: what is read, what is no configuration at all, and that every fault has its place."""

from __future__ import annotations

import json

import pytest

from otel_usdt.config import Comparison
from otel_usdt.probespec import ProbeSpec
from tests.unit.configtext import WHOLE, faults, load, span


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
