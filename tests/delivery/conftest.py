"""What a session with a ground truth is made of."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests.delivery.truth", "tests.delivery.load")

from tests.delivery.load import load  # noqa: E402 - after the rewrite is asked for

__all__ = ["load"]
