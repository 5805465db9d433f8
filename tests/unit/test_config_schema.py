"""The shipped schema, the examples and the documentation say the same of a configuration as the models do."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from otel_usdt.config import load_config
from otel_usdt.config.schema import json_schema
from tests.unit.configtext import WHOLE, load

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


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
