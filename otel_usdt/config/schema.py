"""The JSON Schema of a configuration, which is shipped as config.schema.json for editors."""

from __future__ import annotations

import json
from typing import Any

from otel_usdt.config.model import Config


def json_schema() -> str:
    """The JSON Schema (draft 2020-12) of a configuration, as the text of config.schema.json."""
    schema = Config.model_json_schema(by_alias=True)
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **_from_environment(schema)}, indent=2) + "\n"


def _from_environment(schema: Any) -> Any:
    """`schema` with `${NAME}` allowed wherever a number, a truth value or one of a few words is wanted."""
    if isinstance(schema, list):
        return [_from_environment(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    walked = {key: value if key in ("default", "examples", "enum", "type") else _from_environment(value) for key, value in schema.items()}
    if walked.get("type") not in ("integer", "number", "boolean") and "enum" not in walked:
        return walked
    outer = {key: walked.pop(key) for key in ("default", "description", "title") if key in walked}
    return {"anyOf": [walked, {"type": "string", "pattern": r"\$\{"}], **outer}
