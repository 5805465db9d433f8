"""YAML text -> plain dicts, lists and strings, with the place of each value and every fault of the text itself.

All scalars stay text (and null None): a build id of digits, a name like "on" or a version 1.10 mean what they say, and the
model that reads them knows which are numbers. JSON is YAML here. The text may be hostile: sizes, aliases and depth are bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

Path = tuple[str | int, ...]
Place = tuple[int, int]  # line and column, from 1

_LONGEST = 1 << 20  # characters: a configuration of a thousand span probes is a fifth of it
_NODES = 10_000  # values after all aliases are followed: nine lines of nested aliases would make a billion
_DEEPEST = 50  # a whole configuration is eight deep
_ENVIRONMENT = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}|\$\{")
_CORE_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "timestamp", "value", "map", "seq"))
_MERGE = "tag:yaml.org,2002:merge"


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong at `place`; `path` is its key's way from the top."""

    place: Place
    path: Path
    message: str


@dataclass(slots=True)
class Document:
    """What the text says. `keys` has the place of each key, `values` that of each value; `faults` what the text itself has wrong."""

    content: Any = None
    keys: dict[Path, Place] = field(default_factory=dict)
    values: dict[Path, Place] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def place(self, path: Path, *, key: bool = False) -> Place:
        """Where `path` stands (its key when `key`), or the nearest thing above it that has a place."""
        if key and path in self.keys:
            return self.keys[path]
        while path and path not in self.values:
            path = path[:-1]
        return self.values.get(path, (1, 1))


class _TooMuch(Exception):
    """A bound was passed: there is no point in reading on."""


def read_document(text: str, environ: Mapping[str, str]) -> Document:
    """The one document in `text`, `${NAME}` and `${NAME:-default}` in its values replaced from `environ`. Never raises: see `faults`."""
    document = Document()
    if len(text) > _LONGEST:
        document.faults.append(Fault((1, 1), (), f"larger than {_LONGEST >> 20} MiB"))
        return document
    try:
        node = yaml.SafeLoader(text).get_single_node()
        if node is not None:
            document.content = _Reader(document, environ).value(node, ())
    except yaml.MarkedYAMLError as error:
        document.faults.append(_syntax(error, text))
    except yaml.reader.ReaderError as error:
        document.faults.append(Fault(_position(text, error.position), (), f"a character that YAML does not allow: {error.character!r}"))
    except _TooMuch as error:
        document.faults.append(Fault((1, 1), (), str(error)))
    except RecursionError:
        document.faults.append(Fault((1, 1), (), f"nested more than {_DEEPEST} deep"))
    except (ValueError, OverflowError) as error:  # PyYAML lets these out of "\UFFFFFFFF" and of a %YAML line of 5000 digits
        document.faults.append(Fault((1, 1), (), f"not YAML: {error}"))
    return document


class _Reader:
    """One walk over the composed nodes."""

    def __init__(self, document: Document, environ: Mapping[str, str]) -> None:
        self.document = document
        self.environ = environ
        self.nodes = 0

    def value(self, node: yaml.Node, path: Path) -> Any:
        self.nodes += 1
        if self.nodes > _NODES:
            raise _TooMuch(f"more than {_NODES} values once its aliases are followed")
        if len(path) > _DEEPEST:
            raise _TooMuch(f"nested more than {_DEEPEST} deep (does an alias contain itself?)")
        self.document.values[path] = _place(node)
        if node.tag not in _CORE_TAGS:
            self.fault(node, path, f"the tag {node.tag!r} is not known")
            return None
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
        if node.tag.endswith(":null"):
            return None
        assert isinstance(node, yaml.ScalarNode)
        return self.text(node, path)

    def mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        pairs = {key.value: (key, value) for key, value in self.merged(node, path)}
        pairs |= {key.value: (key, value) for key, value in self.own(node, path)}  # the mapping's own win
        self.document.keys.update({(*path, name): _place(key) for name, (key, _) in pairs.items()})
        return {name: self.value(value, (*path, name)) for name, (_, value) in pairs.items()}

    def own(self, node: yaml.MappingNode, path: Path) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
        seen: dict[str, Place] = {}
        for key, value in node.value:
            if key.tag == _MERGE:
                continue
            if not isinstance(key, yaml.ScalarNode) or key.tag.endswith(":null"):
                self.fault(key, path, "a key must be text")
            elif key.value in seen:
                self.fault(key, (*path, key.value), f"a second time in this mapping; the first is on line {seen[key.value][0]}")
            else:
                seen[key.value] = _place(key)
                yield key, value

    def merged(self, node: yaml.MappingNode, path: Path) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
        """What `<<: *anchor` brings; of a list the first wins, so it comes last."""
        for key, value in node.value:
            if key.tag != _MERGE:
                continue
            for source in reversed(value.value) if isinstance(value, yaml.SequenceNode) else [value]:
                if not isinstance(source, yaml.MappingNode):
                    self.fault(source, path, "<<: merges mappings only")
                elif any(inner.tag == _MERGE for inner, _ in source.value):
                    self.fault(source, path, "<<: of a mapping that itself has << is not supported")
                else:
                    yield from self.own(source, path)

    def text(self, node: yaml.ScalarNode, path: Path) -> str | None:
        text = node.value
        try:  # JSON writes one character past U+FFFF as two: "\\ud83d\\ude00"
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
        except UnicodeDecodeError:
            self.fault(node, path, "half a surrogate pair, which is no character")
            return None
        if "\0" in text:
            self.fault(node, path, "a NUL character, which no value may contain")
            return None
        missing: list[str] = []

        def one(found: re.Match[str]) -> str:
            name, default = found["name"], found["default"]
            if name is None:
                if found[0] != "$${":
                    missing.append("'${' needs NAME} or NAME:-default} after it; a plain '${' is written $${")
                return "${"
            value = self.environ.get(name)
            if default is not None:
                return value or default
            if value is None:
                missing.append(f"the environment has no {name}; ${{{name}:-default}} gives a default")
            return value or ""

        text = _ENVIRONMENT.sub(one, text)
        for message in missing:
            self.fault(node, path, message)
        return None if missing else text

    def fault(self, node: yaml.Node, path: Path, message: str) -> None:
        self.document.faults.append(Fault(_place(node), path, message))


def _place(node: yaml.Node) -> Place:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _position(text: str, position: int) -> Place:
    before = text[:position]
    return before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1


def _syntax(error: yaml.MarkedYAMLError, text: str) -> Fault:
    mark = error.problem_mark or error.context_mark
    place = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    context = f" ({error.context})" if error.context else ""
    quotes = "; within { } or [ ] a ${NAME} needs quotes" if "${" in "".join(text.split("\n")[place[0] - 1 : place[0]]) else ""
    return Fault(place, (), f"not YAML: {error.problem or 'unreadable'}{context}{quotes}")
