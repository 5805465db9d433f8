"""One truth on the wire: what numpy and struct believe of bpf/record.h is what the C compiler makes of it."""

from __future__ import annotations

import platform
import struct

import numpy as np
import pytest

from otel_usdt import ladder, plan
from otel_usdt.probes import compiler, rows
from otel_usdt.stream import records
from tests.unit.layout import Field, record_layout, registers


def laid_out(dtype: np.dtype[np.void]) -> dict[str, Field]:
    """A dtype's fields as the C side tells its own."""
    found = {}
    assert dtype.fields is not None
    for name, (kind, offset, *_) in dtype.fields.items():
        found[name] = Field(offset, kind.itemsize, kind.base.itemsize, kind.base.kind)
    return found


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("call", records.CALL),
        ("call_text", records.CALL_TEXT),
        ("counters", records.COUNTERS),
        ("series_key", records.SERIES_KEY),
        ("series", records.SERIES),
        ("extent", records.EXTENT),
    ],
)
def test_numpy_sees_every_field_where_the_kernel_writes_it(name: str, dtype: np.dtype[np.void]) -> None:
    """Names in their order, offsets, sizes, element sizes and signs are the same, and so is the whole."""
    c = record_layout()
    assert list(laid_out(dtype).items()) == list(c.structs[name].items())
    assert dtype.itemsize == c.sizes[name]


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("argument", rows.ARGUMENT),
        ("site", rows.SITE),
        ("settings", rows.SETTINGS),
        ("step", rows.STEP),
        ("dimensions", rows.DIMENSIONS),
    ],
)
def test_a_packed_row_has_every_value_at_its_fields_offset(name: str, form: struct.Struct) -> None:
    """Each value packed, all of them different, is read again at the place and size that C gives the field of its turn."""
    fields = [(field, where) for field, where in record_layout().structs[name].items() if where.kind != "V"]
    values = [-99 if where.kind == "i" else 11 * (i + 1) for i, (_, where) in enumerate(fields)]
    packed = form.pack(*values)
    read = [int.from_bytes(packed[w.offset : w.offset + w.size], "little", signed=w.kind == "i") for _, w in fields]
    assert dict(zip((field for field, _ in fields), read, strict=True)) == dict(zip((field for field, _ in fields), values, strict=True))


def test_a_row_ends_where_the_c_struct_ends() -> None:
    """The head, all arguments and the whole have C's sizes; the arguments begin where the head ends."""
    c = record_layout()
    assert rows.ARGUMENT.size == c.sizes["argument"]
    assert rows.SETTINGS.size == c.sizes["settings"]
    assert (rows.STEP.size, rows.LADDER_BYTES) == (c.sizes["step"], c.sizes["ladder"])
    assert c.sizes["site"] == rows.SITE_BYTES
    for back, last in ((2 + plan.TEXT_SLOTS, "traceparent"), (1 + plan.TEXT_SLOTS, "key")):
        at = rows.SITE_BYTES - back * rows.ARGUMENT.size
        assert c.structs["site"][last] == Field(at, rows.ARGUMENT.size, rows.ARGUMENT.size, "V")
    at = rows.SITE_BYTES - plan.TEXT_SLOTS * rows.ARGUMENT.size
    assert c.structs["site"]["word"] == Field(at, plan.TEXT_SLOTS * rows.ARGUMENT.size, rows.ARGUMENT.size, "V")
    assert c.structs["site"]["argument"] == Field(rows.SITE.size, rows.READS * rows.ARGUMENT.size, rows.ARGUMENT.size, "V")


@pytest.mark.parametrize(
    ("enum", "python", "none"),
    [
        ("role", {f"ROLE_{name.upper()}": number for name, number in rows.ROLES.items()}, {}),
        (
            "how",
            {"HOW_REGISTER": rows.HOWS["register"], "HOW_MEMORY": rows.HOWS["memory"], "HOW_CONSTANT": rows.HOWS["constant"]},
            {"HOW_NONE": 0},  # an argument that is not there: all zeros
        ),
        (
            "when",
            {
                "WHEN_LESS": rows.WHENS["<"],
                "WHEN_LESS_OR_EQUAL": rows.WHENS["<="],
                "WHEN_EQUAL": rows.WHENS["=="],
                "WHEN_NOT_EQUAL": rows.WHENS["!="],
                "WHEN_GREATER_OR_EQUAL": rows.WHENS[">="],
                "WHEN_GREATER": rows.WHENS[">"],
            },
            {"WHEN_NEVER": 0},
        ),
        ("scope", {"SCOPE_ANY": rows.SCOPES["binary"], "SCOPE_TGID": rows.SCOPES["pid"], "SCOPE_MAP": rows.SCOPES["tree"]}, {}),
        ("keyed", {f"KEYED_{name.upper()}": number for name, number in rows.KEYS.items()}, {"KEYED_NOT": 0}),
        ("join", {f"JOIN_{name.upper()}": bit for name, bit in rows.JOINS.items()}, {}),
        ("mode", {"MODE_COUNT": rows.MODES["count"], "MODE_HISTOGRAM": rows.MODES["histogram"], "MODE_SPANS": rows.MODES["spans"]}, {}),
        (
            "binding",
            {
                "BINDING_LOOSE": rows.BINDINGS["loose"],
                "BINDING_BODY": rows.BINDINGS["body"],
                "BINDING_ACTIVATION": rows.BINDINGS["activation"],
            },
            {},
        ),
        (
            "call_flag",
            {f"CALL_TEXT{i}": records.TEXT_FLAG << i for i in range(plan.TEXT_SLOTS)},
            {
                "CALL_REMOTE": records.REMOTE,
                "CALL_DISAGREES": records.DISAGREES,
                "CALL_ENTER": records.ENTER,
                "CALL_RETURN": records.RETURN,
                "CALL_SAMPLED_OUT": records.SAMPLED_OUT,
                "CALL_RATE_LIMITED": records.RATE_LIMITED,
            },
        ),
    ],
)
def test_enumerators_are_the_same_on_both_sides(enum: str, python: dict[str, int], none: dict[str, int]) -> None:
    """Every enumerator of the header has its counterpart with the same number."""
    assert record_layout().enums[enum] == python | none


def test_no_enumeration_is_left_out() -> None:
    """A new enum in the header must be compared above, and a word that plans may use has its number."""
    assert set(record_layout().enums) == {"role", "when", "how", "scope", "mode", "keyed", "join", "binding", "wanted", "call_flag"}
    assert (len(rows.ROLES), len(rows.HOWS), len(rows.SCOPES), len(rows.MODES), len(rows.BINDINGS)) == (5, 3, 3, 3, 3)


def test_constants_are_the_same_on_both_sides() -> None:
    """How many integers and strings a record carries, how long a string is, how many buckets there are, and what the loader replaces."""
    assert record_layout().constants == {
        "ARGS": plan.ARGUMENT_SLOTS, "TEXTS": plan.TEXT_SLOTS, "TEXT": plan.TEXT_BYTES, "WORD": plan.WORD_BYTES,
        "STEPS": ladder.STEPS, "READS": rows.READS,
        "WANTED_MARK": int.from_bytes(compiler.WANTED_MARK, "little"),
    }  # fmt: skip


def test_losses_are_the_one_number_that_user_space_reads() -> None:
    """stream/counters.py maps one u64 of it."""
    assert record_layout().structs["losses"] == {"scope_full": Field(0, 8, 8, "u")}


def test_registers_lie_where_this_machines_kernel_saves_them() -> None:
    """Every offset into the saved registers is the one of the system's own header."""
    ours = rows.REGISTERS[platform.machine()]
    theirs = registers()
    if platform.machine() == "x86_64":
        short = {name: name.removeprefix("r") if name[1:].isalpha() and name[0] == "r" else name for name in theirs}
        short |= {"orig_rax": "orig_ax", "eflags": "flags"}
        theirs = {short[name]: offset for name, offset in theirs.items()}
    assert ours == theirs
