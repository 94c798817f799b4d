"""How a source is asked: a request, an answer kept on disk, another try where that may help.

A transport turns a request into a reply and is handed in; the live one is in `live.py`, the recorded
one in `recorded.py`. Knows URLs, bytes and waiting; nothing of what an answer means.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

TRIES: Final = 4
FIRST_WAIT_S: Final = 1.0
LONGEST_WAIT_S: Final = 30.0
_AGAIN: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


class SourceError(ValueError):
    """A source could not be asked, or not understood; says which, where, and the way out."""


class Unreachable(SourceError):
    """No answer came; raised by transports, and by `Wire` when it has tried often enough."""


class Refused(SourceError):
    """The source answered that it will not answer."""


class Garbled(SourceError):
    """The answer is not of the shape that this source is known for."""


@dataclass(frozen=True, slots=True)
class Request:
    """One question. params: of the address, in any order. body: JSON of a POST."""

    url: str
    params: tuple[tuple[str, str], ...] = ()
    body: Mapping[str, Any] | None = None

    @property
    def method(self) -> str:
        return "GET" if self.body is None else "POST"

    @property
    def address(self) -> str:
        """The URL with its parameters, for people."""
        asked = "&".join(f"{name}={value}" for name, value in self.params)
        return f"{self.url}?{asked}" if asked else self.url

    def key(self, release: str) -> str:
        """The same question of the same release has the same name."""
        told = json.dumps(
            [self.method, self.url, sorted(self.params), self.body, release], sort_keys=True
        )
        return blake2b(told.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back. wait_s: how long the source asks to wait, None where it does not say."""

    status: int
    body: bytes
    wait_s: float | None = None


Transport = Callable[[Request], Reply]


@dataclass(slots=True)
class Wire:
    """A transport with a memory and some patience.

    cache: folder of raw answers, None keeps none. release: pins what is cached; another release is
    asked anew. refresh: ask again though an answer is kept. asked: addresses in order, for provenance.
    """

    transport: Transport
    cache: Path | None = None
    release: str = "current"
    refresh: bool = False
    sleep: Callable[[float], None] = time.sleep
    asked: list[str] = field(default_factory=list)

    def json(self, request: Request, check: Callable[[Any], object] = lambda payload: None) -> Any:
        """The answer as JSON, from the cache where it is there.

        check: raises on an answer that must not be kept, an error under HTTP 200 for instance.
        Raises Unreachable, Refused (a status that another try would not mend), Garbled.
        """
        self.asked.append(request.address)
        kept = None if self.cache is None else self.cache / f"{request.key(self.release)}.json"
        if kept is not None and kept.is_file() and not self.refresh:
            return json.loads(kept.read_text("utf-8"))["payload"]
        body = self._ask(request)
        try:
            payload = json.loads(body)
        except ValueError as error:
            raise Garbled(
                f"{request.address} answered what is no JSON ({body[:60]!r}); try again, or look at it in a browser"
            ) from error
        check(payload)
        if kept is not None:
            self._keep(kept, request, payload)
        return payload

    def _ask(self, request: Request) -> bytes:
        wait_s, last = FIRST_WAIT_S, ""
        for attempt in range(TRIES):
            asked_s: float | None = None
            try:
                reply = self.transport(request)
            except Unreachable as error:
                last = str(error)
            else:
                if reply.status < 400:
                    return reply.body
                if reply.status not in _AGAIN:
                    raise Refused(_refusal(request, reply))
                last, asked_s = f"HTTP {reply.status}", reply.wait_s
            if attempt < TRIES - 1:
                self.sleep(min(max(wait_s, asked_s or 0.0), LONGEST_WAIT_S))
                wait_s *= 2
        raise Unreachable(
            f"cannot reach {request.address} after {TRIES} tries ({last}); check the network and proxies and try"
            " again, give --cache DIR with answers from before, or --from-samples to see recorded ones"
        )

    def _keep(self, path: Path, request: Request, payload: Any) -> None:
        """Write it whole or not at all: another process may read at any time."""
        path.parent.mkdir(parents=True, exist_ok=True)
        told = {
            "url": request.url,
            "params": dict(request.params),
            "body": request.body,
            "release": self.release,
            "payload": payload,
        }
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(told, sort_keys=True), encoding="utf-8")
        part.rename(path)


def _refusal(request: Request, reply: Reply) -> str:
    said = " ".join(reply.body[:200].decode("utf-8", "replace").split())
    remedy = {
        400: "the source does not understand the question; its interface may have changed",
        403: "it does not serve this machine; mind its terms of use",
        404: "it does not know what was asked for; check the identifiers",
    }.get(reply.status, "look at the address in a browser")
    return f"{request.address}: HTTP {reply.status}: {remedy}. It said: {said or 'nothing'}"


def listed(payload: Any, key: str, where: str) -> list[Any]:
    """The list under a key. Raises Garbled where there is none."""
    found = payload.get(key) if isinstance(payload, Mapping) else None
    if not isinstance(found, list):
        keys = ", ".join(payload) if isinstance(payload, Mapping) else type(payload).__name__
        raise Garbled(f"{where} sent no list {key!r} (it sent: {keys or 'nothing'})")
    return found
