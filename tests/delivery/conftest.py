"""What a session with a ground truth is made of."""

from __future__ import annotations

from tests.delivery.load import load

__all__ = ["load"]
