"""What follows changes under the machine's lock, and may take time: collected under it, and carried out after it."""

from __future__ import annotations

import threading
from typing import Callable, List

Effects = List[Callable[[], None]]


class Held:
    """A context manager that holds the lock; then it carries out the effects, also where an error ends the change."""

    __slots__ = ("_effects", "_lock")

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self._effects: Effects = []

    def __enter__(self) -> Effects:
        self._lock.acquire()
        return self._effects

    def __exit__(self, *exc: object) -> None:
        self._lock.release()
        for effect in self._effects:
            effect()
