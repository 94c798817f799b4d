"""The network: one request, one reply, with a limit on waiting. Knows HTTP; nothing of sources."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from data.sources.wire import Reply, Request, Transport, Unreachable

TIMEOUT_S = 30.0
AGENT = "rounds/0.1 (research)"


@contextmanager
def live(timeout_s: float = TIMEOUT_S) -> Iterator[Transport]:
    """A transport over httpx, with connections kept open while it is held."""
    with httpx.Client(
        timeout=timeout_s, follow_redirects=True, headers={"User-Agent": AGENT}
    ) as client:

        def ask(request: Request) -> Reply:
            try:
                answer = client.request(
                    request.method,
                    request.url,
                    params=list(request.params),
                    json=request.body,
                )
            except httpx.TransportError as error:
                raise Unreachable(f"{type(error).__name__}: {error}") from error
            return Reply(
                answer.status_code, answer.content, _wait(answer.headers.get("Retry-After"))
            )

        yield ask


def _wait(told: str | None) -> float | None:
    """Seconds of a Retry-After; a date in it is left to our own patience."""
    return float(told) if told is not None and told.strip().isdigit() else None
