"""Any text and any tree of values: a configuration or a ConfigError, and nothing else."""

from __future__ import annotations

import contextlib
import json
import string

from hypothesis import example, given
from hypothesis import strategies as st

from otel_usdt.errors import ConfigError
from tests.unit.configtext import load

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
