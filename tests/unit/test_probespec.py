"""The text of a probe: what is read, what is refused, and how the refusal helps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_usdt.errors import UsageError
from otel_usdt.probespec import ProbeSpec, parse_function, parse_pair, parse_probe


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("usdt:postgresql:query__start", ProbeSpec("usdt", "postgresql", "query__start")),
        ("func:XLogFlush", ProbeSpec("func", name="XLogFlush")),
        ("addr:0x1234", ProbeSpec("addr", address=0x1234)),
        ("libpq.so.5:func:PQexec", ProbeSpec("func", name="PQexec", binary="libpq.so.5")),
        ("/usr/lib/libc.so.6:usdt:libc:setjmp", ProbeSpec("usdt", "libc", "setjmp", binary="/usr/lib/libc.so.6")),
        ("func:ns::Class::run(int)", ProbeSpec("func", name="ns::Class::run(int)")),
        ("  func:a  ", ProbeSpec("func", name="a")),
        ("usdt:func:x", ProbeSpec("usdt", "func", "x")),
    ],
)
def test_each_form_is_read(text: str, spec: ProbeSpec) -> None:
    """Every form of the documentation gives its parts."""
    assert parse_probe(text) == spec


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "empty"),
        ("query__start", "did you mean 'func:query__start'"),
        ("postgresql:query__start", "did you mean 'usdt:postgresql:query__start'"),
        ("uprobe:/bin/x:main", "did you mean '/bin/x:func:main'"),
        ("usdt:/bin/x:prov:name", "did you mean '/bin/x:usdt:prov:name'"),
        ("usdt:only", "usdt:PROVIDER:NAME is wanted"),
        ("usdt::x", "usdt:PROVIDER:NAME is wanted"),
        ("func:", "func:NAME is wanted"),
        (":func:x", "before the first colon"),
        ("addr:main", "addr:0x1234 is wanted"),
        ("addr:-1", "out of range"),
        ("func:a\nb", "printable"),
    ],
)
def test_a_wrong_form_says_the_right_one(text: str, told: str) -> None:
    """What is no probe is refused with what was probably meant."""
    with pytest.raises(UsageError) as caught:
        parse_probe(text)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("text", "second"),
    [
        ("usdt:a:b ~~ c", "usdt:a:c"),
        ("usdt:a:b~~usdt:d:c", "usdt:d:c"),
        ("lib.so:usdt:a:b ~~ c", "lib.so:usdt:a:c"),
        ("lib.so:usdt:a:b ~~ usdt:a:c", "lib.so:usdt:a:c"),
        ("func:a ~~ b", "func:b"),
        ("addr:0x10 ~~ 0x20", "addr:0x20"),
    ],
)
def test_the_second_end_has_from_the_first_what_it_leaves_out(text: str, second: str) -> None:
    """In `A ~~ B`, B takes kind, provider and binary from A."""
    assert str(parse_pair(text)[1]) == second


@pytest.mark.parametrize("text", ["usdt:a:b", "usdt:a:b ~~", "~~ usdt:a:b", "usdt:a:b ~~ c ~~ d", "usdt:a:b ~~ c:d"])
def test_what_is_no_pair_is_refused(text: str) -> None:
    """A pair has exactly two ends."""
    with pytest.raises(UsageError):
        parse_pair(text)


def test_a_function_needs_no_prefix() -> None:
    """`function: NAME` is the same as `function: func:NAME`, and no other kind will do."""
    assert parse_function("heap_*") == parse_function("func:heap_*")
    assert parse_function("heap_*").is_glob
    with pytest.raises(UsageError, match="function's name"):
        parse_function("usdt:a:b")


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    """Whatever is read prints as text that is read the same; the rest is a UsageError."""
    try:
        spec = parse_probe(text)
    except UsageError:
        return
    assert parse_probe(str(spec)) == spec
