"""Names near one that was not found, for an error's "did you mean"."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(word: str, known: Iterable[str], most: int = 3, cutoff: float = 0.5) -> list[str]:
    """Those of `known` that are most like `word`, likest first; `cutoff` is how alike they must be, 1 being the same."""
    import difflib  # here: one start in a hundred has such an error, and each would pay for the import

    return difflib.get_close_matches(word, known, most, cutoff)
