"""What the keys of a configuration mean together: one shape a span probe, no name twice, no more arguments than a record has room for.

Works on the plain document, not on the models, so that these faults are told together with those of single keys; whatever has
the wrong type is passed over here, for the models tell it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from otel_usdt.config.document import Path
from otel_usdt.errors import UsageError
from otel_usdt.plan import ARGUMENT_SLOTS, TEXT_SLOTS
from otel_usdt.probespec import parse_function, parse_probe

Found = Iterator[tuple[Path, str]]
_NO_BUCKETS = "an exponential histogram has its own buckets; explicit ones go with type: explicit"
_SHAPES = "one of function, enter with return, or probe is wanted"


def check(content: dict[str, Any]) -> Found:
    """Each fault of a whole configuration that no single key has: its path and what is wrong."""
    histogram = content.get("histogram")
    told = histogram if isinstance(histogram, dict) else {}
    if told.get("type") == "exponential" and told.get("buckets") is not None:
        yield ("histogram", "buckets"), _NO_BUCKETS
    if told.get("type") == "explicit" and told.get("max_size") is not None:
        yield ("histogram", "max_size"), "only an exponential histogram chooses its buckets by how many there may be"
    names: dict[str, int] = {}
    for i, target in enumerate(_list(content.get("targets"))):
        if not isinstance(target, dict):
            continue
        path: Path = ("targets", i)
        name = target.get("name")
        if isinstance(name, str) and names.setdefault(name, i) != i:
            yield (*path, "name"), f"{name!r} is already the name of targets[{names[name]}]"
        yield from _select(target, path)
        yield from _spans(_list(target.get("spans")), (*path, "spans"), told.get("type") == "exponential")


def _select(target: dict[str, Any], path: Path) -> Found:
    select = target.get("select")
    if not isinstance(select, dict):
        return
    if not select:
        yield (*path, "select"), "empty: pid, exe_path or (for scope binary) binary is wanted"
    if select.get("binary") is not None and target.get("scope", "pid") in ("pid", "tree"):
        yield (*path, "select", "binary"), "a file alone names no process: it needs scope: binary; or select by pid or exe_path"


def _spans(spans: list[Any], path: Path, exponential: bool) -> Found:
    names: dict[str, int] = {}
    for i, span in enumerate(spans):
        if not isinstance(span, dict):
            continue
        name = _name(span)
        if name and names.setdefault(name, i) != i:
            where = (*path, i, "name") if "name" in span else (*path, i)
            yield where, f"two span probes are named {name!r}; the first is spans[{names[name]}]: give one another name"
        yield from _shape(span, (*path, i))
        yield from _attributes(span, (*path, i))
        yield from _histogram(span, (*path, i, "histogram"), exponential)


def _name(span: dict[str, Any]) -> str:
    """The name that its spans will have, as far as the text alone tells."""
    if isinstance(span.get("name"), str):
        return str(span["name"]).strip()
    try:
        if isinstance(span.get("function"), str):
            spec = parse_function(span["function"])
        else:
            first = span.get("probe") or span.get("enter")
            spec = parse_probe(first[0] if isinstance(first, list) and first else first or "")
    except (UsageError, AttributeError, TypeError):
        return ""
    return "" if spec.is_glob else str(spec)


def _shape(span: dict[str, Any], path: Path) -> Found:
    shapes = [key for key in ("function", "enter", "probe") if span.get(key) is not None]
    has_return = span.get("return") is not None
    if not shapes and not has_return:
        yield path, f"nothing to probe: {_SHAPES}"
    elif len(shapes) > 1:
        yield (*path, shapes[1]), f"{' and '.join(shapes)} together: {_SHAPES}"
    elif has_return and shapes in ([], ["probe"]):
        yield (*path, "return"), "return without enter: the two ends of a call are wanted" if not shapes else f"with probe: {_SHAPES}"
    elif has_return and shapes == ["function"]:
        yield (*path, "return"), "a function's own return is its end: leave it out, or write enter in place of function"
    elif shapes == ["enter"] and not has_return:
        yield (*path, "enter"), "enter without return: name where the call ends, or use probe to count one end alone"
    if shapes == ["probe"] and span.get("mode", "count") in ("histogram", "spans"):
        yield (*path, "mode"), "one probe alone is a point without duration: it can only be counted (mode: count)"
    if shapes == ["probe"] and span.get("min_duration") is not None:
        yield (*path, "min_duration"), "one probe alone is a point without duration"
    if span.get("traceparent") is not None and (shapes == ["probe"] or span.get("mode", "spans") != "spans"):
        yield (*path, "traceparent"), "only mode: spans makes spans, which could have a parent"
    if span.get("key") is not None:
        yield from _key(span, (*path, "key"), shapes)
    if span.get("error") is not None and shapes != ["function"]:
        yield (*path, "error"), "only a function has a return value: error goes with function"


def _key(span: dict[str, Any], path: Path, shapes: list[str]) -> Found:
    attributes = span.get("attributes")
    if shapes != ["enter"]:
        yield path, "only enter and return can be on different threads: a function returns where it was entered"
    if span.get("mode") == "count":
        yield path, "mode: count pairs nothing; count each end with a probe of its own"
    if isinstance(attributes, dict) and any(isinstance(one, dict) and one.get("as") == "string" for one in attributes.values()):
        yield path, "a keyed call carries numbers, no text"


def _histogram(span: dict[str, Any], path: Path, exponential: bool) -> Found:
    histogram = span.get("histogram")
    if not isinstance(histogram, dict):
        return
    if span.get("probe") is not None or span.get("mode") == "count":
        yield path, "what is only counted has no histogram"
    attributes = span.get("attributes")
    known = attributes if isinstance(attributes, dict) else {}
    for i, name in enumerate(dimensions := _list(histogram.get("dimensions"))):
        if isinstance(name, str) and name.strip() not in map(str.strip, filter(lambda key: isinstance(key, str), known)):
            yield (*path, "dimensions", i), f"{name!r} is none of the span probe's attributes: declare it there"
        elif name in dimensions[:i]:
            yield (*path, "dimensions", i), f"{name!r} is there twice"
    if exponential and histogram.get("buckets") is not None:
        yield (*path, "buckets"), _NO_BUCKETS


def _attributes(span: dict[str, Any], path: Path) -> Found:
    attributes = span.get("attributes")
    if not isinstance(attributes, dict) or not attributes:
        return
    path = (*path, "attributes")
    if span.get("probe") is not None:
        yield path, "one probe alone is counted only, and makes no span that could have attributes"
        return
    is_function = span.get("function") is not None
    read = {key: one for key, one in attributes.items() if isinstance(one, dict)}
    for key, one in read.items():
        yield from _attribute(one, (*path, key), is_function)
    texts = sum(one.get("as") == "string" for one in read.values())
    if texts > TEXT_SLOTS:
        yield path, f"{texts} strings: a span carries at most {TEXT_SLOTS}"
    returned = span.get("error") is not None
    histogram = span.get("histogram")
    dimensions = _list(histogram.get("dimensions")) if isinstance(histogram, dict) else []
    words = sum(one.get("as") == "string" for key, one in read.items() if key in dimensions)  # their hashes are numbers
    numbers = len(read) - texts + words + returned
    if numbers > ARGUMENT_SLOTS:
        why = ", ".join(["one for error"] * returned + [f"{words} for strings that are dimensions"] * bool(words))
        yield path, f"{numbers} numbers{f' ({why})' if why else ''}: a span carries at most {ARGUMENT_SLOTS}"


def _attribute(one: dict[str, Any], path: Path, is_function: bool) -> Found:
    has_arg, has_return = one.get("arg") is not None, one.get("return") is not None
    if has_arg == has_return:
        yield path, "both arg and return: one value is wanted" if has_arg else "arg: N or return: true is wanted"
    if has_return and not is_function:
        yield (*path, "return"), "only a function has a return value; at: return reads an argument of the probe where the call ends"
    if one.get("at") == "return" and is_function and has_arg:
        yield (*path, "at"), "a function's arguments are gone when it returns: read them at enter, or take return: true"
    if one.get("max") is not None and one.get("as") != "string":
        yield (*path, "max"), "only a string has a length: it goes with as: string"


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
