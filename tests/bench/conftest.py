"""The quick run leaves nothing behind either."""

from tests.kernel.fixtures import nothing_left_behind

__all__ = ["nothing_left_behind"]
