"""The configuration: YAML text -> frozen `Config`, every fault at once, each with its file, line and column.

The models are in model.py (targets.py, exports.py, values.py) and what they mean together in check.py; docs/configuration.md is for people.
`python -m otel_usdt.config` prints the JSON Schema that is shipped as config.schema.json.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

import pydantic
from pydantic_core import ErrorDetails

from otel_usdt.config.check import check
from otel_usdt.config.document import Document, Fault, Path, read_document
from otel_usdt.config.environment import export_of, histogram_type, otlp_export
from otel_usdt.config.model import Config
from otel_usdt.config.targets import AttributeConfig, KeyConfig, SpanConfig, TargetConfig, TraceparentConfig
from otel_usdt.config.values import Comparison, Strict
from otel_usdt.errors import ConfigError
from otel_usdt.near import nearest

__all__ = [
    "AttributeConfig",
    "Comparison",
    "Config",
    "KeyConfig",
    "SpanConfig",
    "TargetConfig",
    "TraceparentConfig",
    "export_of",
    "histogram_type",
    "load_config",
    "otlp_export",
]

_SHOWN = 50  # faults: a page of them is enough to start mending


def load_config(text: str, source: str, environ: Mapping[str, str]) -> Config:
    """The configuration in `text` (YAML or JSON). `source` names it in messages; `environ` fills in `${NAME}`.

    Raises ConfigError with every fault, one a line: `SOURCE:LINE:COLUMN: path.to.key: what is wrong`.
    """
    document = read_document(text, environ)
    faults = list(document.faults)
    if not any(fault.path == () for fault in faults):
        faults += _content_faults(document)
    if faults:
        raise ConfigError(_told(faults, source))
    return Config.model_validate(document.content)


def _content_faults(document: Document) -> Iterator[Fault]:
    if not isinstance(document.content, dict):
        what = "empty" if document.content is None else f"a {'list' if isinstance(document.content, list) else 'text'}"
        yield Fault((1, 1), (), f"the document is {what}: a mapping with targets is wanted")
        return
    broken = [fault.path for fault in document.faults]  # said already
    for path, message, at_key in _faults(document.content):
        if not any(path[: len(prefix)] == prefix for prefix in broken):
            yield Fault(document.place(path, key=at_key), path, message)


def _faults(content: dict[str, Any]) -> Iterator[tuple[Path, str, bool]]:
    try:
        Config.model_validate(content)
    except pydantic.ValidationError as errors:
        for error in errors.errors(include_url=False):
            if error["type"] == "too_short" and error["input"]:
                continue  # its items are at fault, and each is told
            yield error["loc"], _message(error), error["type"] == "extra_forbidden"
    for path, message in check(content):
        yield path, message, True


def _message(error: ErrorDetails) -> str:
    value = "this value" if error["loc"][:3] == ("export", "otlp", "headers") else _short(error["input"])  # headers carry credentials
    match error["type"]:
        case "extra_forbidden":
            return _unknown_key(error["loc"])
        case "missing":
            return "is missing"
        case "too_short":
            return "at least one is wanted"
        case "value_error":
            return error["msg"].removeprefix("Value error, ")
        case "literal_error":
            known = re.findall(r"'([^']*)'", error["ctx"]["expected"])
            return f"{value} is none of {', '.join(known)}{_did_you_mean(str(error['input']), known)}"
        case "model_type" | "dict_type" | "model_attributes_type":
            return f"a mapping is wanted, not {value}"
        case "tuple_type" | "list_type":
            return f"a list is wanted, not {value}"
        case "string_type":
            return f"text is wanted, not {value}"
        case "int_parsing" | "int_type" | "int_from_float" | "int_parsing_size":
            return f"a whole number is wanted, not {value}"
        case "bool_parsing" | "bool_type":
            return f"true or false is wanted, not {value}"
        case _:
            return f"{error['msg'].replace('Input should be', 'must be').replace('String should', 'must')}, not {value}"


def _unknown_key(path: Path) -> str:
    key, model = str(path[-1]), _model_at(path[:-1])
    if model is None:
        return "no such key"
    if any(fnmatchcase(key, later) for later in model.not_yet):
        return "not supported yet"
    known = [field.alias or name for name, field in model.model_fields.items()]
    return f"no such key{_did_you_mean(key, known) or '; known are ' + ', '.join(known)}"


def _model_at(path: Path) -> type[Strict] | None:
    """The model that reads the mapping at `path`."""
    kind: Any = Config
    for step in path:
        if _is_model(kind):
            kind = next((field.annotation for name, field in kind.model_fields.items() if (field.alias or name) == step), None)
            if type(None) in typing.get_args(kind):
                kind = _model_in(kind)
        else:  # a list's item or a dict's value
            kind = _model_in(kind)
    return kind if _is_model(kind) else None


def _model_in(kind: Any) -> Any:
    return next((one for one in typing.get_args(kind) if _is_model(one)), None)


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Strict)


def _did_you_mean(word: str, known: list[str]) -> str:
    near = nearest(word.lower(), known, 1)
    return f" (did you mean '{near[0]}'?)" if near else ""


def _short(value: Any) -> str:
    if isinstance(value, dict | list | tuple):
        return "a mapping" if isinstance(value, dict) else "a list"
    if value is None:
        return "nothing"
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _told(faults: list[Fault], source: str) -> str:
    faults = sorted(set(faults), key=lambda fault: fault.place)
    lines = [f"{source}:{f.place[0]}:{f.place[1]}: {f'{_dotted(f.path)}: ' if f.path else ''}{f.message}" for f in faults[:_SHOWN]]
    if len(faults) > _SHOWN:
        lines.append(f"and {len(faults) - _SHOWN} more")
    return "\n".join(lines)


def _dotted(path: Path) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")
