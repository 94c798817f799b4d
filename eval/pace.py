"""When the next request may be sent: limits a minute, waits the server asked for, growing waits.

Plain arithmetic on a clock that is passed in; nothing of requests or servers, and nothing sleeps here.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic


class Pace:
    """Spreads requests and tokens evenly; nobody sends before a wait the server asked for is over."""

    def __init__(
        self,
        requests_per_minute: float = 0.0,
        tokens_per_minute: float = 0.0,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """A limit of 0 is no limit."""
        self._a_request_s = 60.0 / requests_per_minute if requests_per_minute > 0 else 0.0
        self._a_token_s = 60.0 / tokens_per_minute if tokens_per_minute > 0 else 0.0
        self._clock = clock
        self._next_request = self._next_tokens = self._held_until = clock()

    def reserve(self, tokens: int) -> float:
        """Take the next place in the queue for a request of about `tokens`; the seconds until it."""
        now = self._clock()
        at = max(now, self._next_request, self._next_tokens, self._held_until)
        self._next_request = at + self._a_request_s
        self._next_tokens = at + tokens * self._a_token_s
        return at - now

    def settle(self, reserved: int, used: int) -> None:
        """Correct the queue by what a request really took."""
        self._next_tokens += (used - reserved) * self._a_token_s

    def hold(self, wait_s: float) -> None:
        """Nobody sends for `wait_s`: the server asked for it."""
        self._held_until = max(self._held_until, self._clock() + wait_s)

    def held(self) -> float:
        """Seconds that are left of a wait the server asked for."""
        return max(0.0, self._held_until - self._clock())


def backoff(failures: int, first_s: float, cap_s: float, draw: float) -> float:
    """Seconds to wait after so many failures: `draw` in [0, 1) of a span that doubles up to `cap_s`.

    Never less than a tenth of the span, so that a crowd neither returns at once nor together.
    """
    span = min(cap_s, first_s * 2.0 ** min(failures - 1, 30))
    return float(span * (0.1 + 0.9 * draw))
