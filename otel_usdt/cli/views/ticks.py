"""Waiting for lines without missing the moment to redraw. Standard library only."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

Line = dict[str, Any]

_WAITING = 4096  # lines between the two threads; when the view is slower, the pipe to it fills and the session counts what it cannot write


class Ticks:
    """`lines` as they come, and None whenever `seconds` have passed since the last None. Errors of `lines` are raised here.

    The reader is a thread of its own, for a read from a pipe has no time limit. An iterator and no generator, so that it can be used
    further after a KeyboardInterrupt in the middle of a wait.
    """

    def __init__(self, lines: Iterable[Line], seconds: float) -> None:
        self._seconds = seconds
        self._due = time.monotonic() + seconds
        self._queue: queue.Queue[Line | BaseException] = queue.Queue(_WAITING)
        threading.Thread(target=self._read, args=(lines,), name="lines", daemon=True).start()

    def _read(self, lines: Iterable[Line]) -> None:
        try:
            for line in lines:
                self._queue.put(line)
            self._queue.put(StopIteration())
        except BaseException as error:  # whatever it is, the consumer raises it
            self._queue.put(error)

    def __iter__(self) -> Iterator[Line | None]:
        return self

    def __next__(self) -> Line | None:
        now = time.monotonic()
        if now < self._due:
            try:
                line = self._queue.get(timeout=self._due - now)
            except queue.Empty:
                pass
            else:
                if isinstance(line, BaseException):
                    raise line
                return line
        self._due = time.monotonic() + self._seconds
        return None
