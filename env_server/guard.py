"""Who may come in: how often, with how much, from which page, and who may touch what is not theirs.

Knows ASGI, headers and addresses; nothing of sessions or episodes. Every request gets an id here, and
every reply the headers that keep a browser from doing more than was meant.
"""

from __future__ import annotations

import hmac
import logging
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from time import monotonic, perf_counter
from typing import Any, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from env_server import wire
from env_server.contract import RoundsError
from env_server.logs import request_id
from env_server.metrics import Metrics
from env_server.play import Limits

log = logging.getLogger("rounds.access")

REQUEST_HEADER: Final = "X-Request-Id"
REMEMBERED: Final = 10_000  # addresses whose rate is watched; the longest unseen is forgotten
_GOOD_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SHIELD: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'",
}


class Forbidden(RoundsError):
    """It changes more than one session, and the request may not do that."""


class Unauthorized(RoundsError):
    """The server's token is needed, and was not sent."""


@dataclass(slots=True)
class Bucket:
    """A rate with a burst: `take` one, or learn how long until there is one."""

    rate: float
    burst: float
    left: float
    at_s: float

    def take(self, now_s: float) -> float:
        """0.0 if there was one, else the seconds to wait (nothing is taken)."""
        self.left = min(self.burst, self.left + (now_s - self.at_s) * self.rate)
        self.at_s = now_s
        if self.left >= 1.0:
            self.left -= 1.0
            return 0.0
        return (1.0 - self.left) / self.rate


def bucket(limits: Limits, now_s: float) -> Bucket:
    """A full bucket for the configured rate."""
    burst = max(1.0, limits.rate * limits.burst_s)
    return Bucket(limits.rate, burst, burst, now_s)


@dataclass(slots=True)
class Rates:
    """How often each address came lately."""

    limits: Limits
    clock: Callable[[], float] = monotonic
    _seen: OrderedDict[str, Bucket] = field(default_factory=OrderedDict)

    def wait_s(self, address: str) -> float:
        """0.0 where the address may come in now, else how long it has to wait."""
        if not self.limits.rate:
            return 0.0
        now = self.clock()
        found = self._seen.pop(address, None) or bucket(self.limits, now)
        self._seen[address] = found
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return found.take(now)


@dataclass(frozen=True, slots=True)
class Keeper:
    """Decides who may change what is not one session's own.

    token: who holds it may; None: nobody has one. local: only this machine reaches the server, so
    without a token whoever asks may, unless a page of another site makes the browser ask.
    origins: sites whose pages may call this server; by default none but its own.
    """

    token: str | None = None
    local: bool = False
    origins: tuple[str, ...] = ()

    def admit(self, request: HTTPConnection) -> None:
        """Raise Forbidden or Unauthorized unless the request may change more than a session."""
        self.same_site(request)
        if self.token is None and not self.local:
            raise Forbidden("closed: start the server with --token (or ROUNDS_TOKEN) to open this")
        self.spend(request)

    def spend(self, request: HTTPConnection) -> None:
        """Raise Unauthorized where a token is set and the request does not hold it."""
        if self.token is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        known = hmac.compare_digest(given.strip().encode(), self.token.encode())
        if scheme.lower() != "bearer" or not known:
            raise Unauthorized("send the server's token: Authorization: Bearer TOKEN")

    def same_site(self, request: HTTPConnection) -> None:
        """Raise Forbidden for a request that another site's page made a browser send."""
        origin = request.headers.get("origin")
        if origin is None or origin in self.origins:
            return
        if origin.partition("://")[2] != request.headers.get("host"):
            raise Forbidden(f"{origin[:60]!r} is not this server's page; allow it with --cors")


class Guard:
    """The outermost layer of the app."""

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics, rates: Rates) -> None:
        self.app, self.limits, self.metrics, self.rates = app, limits, metrics, rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get(REQUEST_HEADER, "")
        mark = given if _GOOD_ID.fullmatch(given) else secrets.token_hex(8)
        token = request_id.set(mark)
        try:
            if scope["type"] == "http":
                await self._http(scope, receive, send, headers, mark)
            else:
                await self._socket(scope, receive, send)
        finally:
            request_id.reset(token)

    async def _http(
        self, scope: Scope, receive: Receive, send: Send, headers: Headers, mark: str
    ) -> None:
        started = perf_counter()
        status = 500

        async def shielded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _shield(message, mark)
            await send(message)

        refused = self._refusal(scope, headers)
        try:
            await (refused or self.app)(scope, receive, shielded)
        finally:
            if status == 500:
                self.metrics.errors.add("http")
            self.metrics.requests.add(_method(scope["method"]), str(status))
            _record(scope, status, perf_counter() - started)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """The reply to a request that is not let in."""
        if (wait_s := self.rates.wait_s(_address(scope))) > 0.0:
            self.metrics.turned_away.add("rate")
            return _problem(429, f"over {self.limits.rate:g} requests a second", wait_s)
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length[:18]) > self.limits.body_bytes:
            self.metrics.turned_away.add("size")
            limit = self.limits.body_bytes
            return _problem(413, f"body of {length[:18]} bytes; the limit is {limit}")
        return None

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (wait_s := self.rates.wait_s(_address(scope))) > 0.0:
            self.metrics.turned_away.add("rate")
            # before the handshake is over this becomes the HTTP answer to it
            await receive()
            await _problem(429, f"over {self.limits.rate:g} requests a second", wait_s)(
                scope, receive, send
            )
            return
        await self.app(scope, receive, send)


def _problem(status: int, words: str, wait_s: float | None = None) -> Response:
    headers = {} if wait_s is None else {"Retry-After": str(max(1, round(wait_s + 0.5)))}
    body = wire.dumps({"detail": words, "kind": {413: "TooLarge"}.get(status, "TooMany")})
    return Response(body, status, headers, media_type="application/json")


def _shield(message: MutableMapping[str, Any], mark: str) -> None:
    headers = MutableHeaders(scope=message)
    for name, value in _SHIELD.items():
        headers.setdefault(name, value)
    headers[REQUEST_HEADER] = mark


def _record(scope: Scope, status: int, took_s: float) -> None:
    level = logging.WARNING if status >= 500 else logging.INFO
    if not log.isEnabledFor(level):
        return
    ms = round(took_s * 1000, 2)
    fields = {"method": scope["method"], "path": scope["path"][:200], "status": status, "ms": ms}
    log.log(
        level,
        "%s %s %d",
        *(scope["method"], ascii(scope["path"][:200])[1:-1], status),
        extra={**fields, "peer": _address(scope)},
    )


def _method(given: str) -> str:
    """The method as a label: there must be few."""
    return given if given in ("GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH") else "?"


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else "?"
