"""Asking again, within reason: whoever is in trouble is not helped by being asked twice as much."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

PAUSE = (0.01, 0.04)
"""Seconds to wait before asking again, drawn between these: not all at once."""


class RetryBudget:
    """How often may be asked again: `most` times at once, and then `per_second` times a second. Safe between threads.

    What goes well costs nothing. `spent` and `refused` count what was asked again, and what was not for want of budget.
    """

    def __init__(
        self, most: int = 10, per_second: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most, self._rate, self._clock = float(most), per_second, clock
        self._left, self._looked = self._most, clock()
        self._lock = threading.Lock()
        self.spent = self.refused = 0

    def take(self, left: float | None = None) -> float | None:
        """Seconds after which to ask again; None where that is not to be done, with `left` seconds to the deadline."""
        pause = random.uniform(*PAUSE)  # noqa: S311
        if left is not None and left < 2 * pause:
            return None  # the time is over, which is no matter of the budget
        with self._lock:
            now = self._clock()
            self._left = min(self._left + (now - self._looked) * self._rate, self._most)
            self._looked = now
            if self._left < 1.0:
                self.refused += 1
                return None
            self._left -= 1.0
            self.spent += 1
        return pause
