"""What is wrong when a request to a model fails: to be waited out, asked again, put otherwise, or given up.

Knows status codes and the client's exceptions; decides nothing beyond the one request.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal

Kind = Literal["again", "busy", "otherwise", "rejected", "unreachable", "full", "hopeless"]

# fields a server may turn down without harm: the answer is then less certain to be well formed
OPTIONAL = ("response_format", "tools", "tool_choice", "temperature", "top_p", "max_tokens")
_NAMES = {"response_format": ("response_format", "json_schema", "schema", "guided")}
_TOO_LONG = re.compile(
    r"context[_ ](?:length|window|size)|maximum (?:context|model) length|prompt is too long"
    r"|too many (?:input )?tokens|exceeds? .{0,40}context",
    re.IGNORECASE,
)
_NO_MONEY = ("insufficient_quota", "billing")


class BadReply(Exception):
    """The server answered 200 with something that is no chat completion."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """One failed request.

    kind: again (ask once more), busy (the server asks for patience), otherwise (leave `turned_down`
    out and ask again), rejected (this request will never do), unreachable (nobody listens), full (the
    conversation is too long), hopeless (no request will do).
    wait_s: what the server asked for. counts: whether it is one of the request's tries.
    """

    kind: Kind
    why: str
    remedy: str = ""
    wait_s: float | None = None
    turned_down: str | None = None

    @property
    def counts(self) -> int:
        return int(self.kind in ("again", "unreachable"))

    @property
    def everybody_waits(self) -> bool:
        return self.kind == "busy"


_STATUS_REMEDY = {
    401: "the key is refused: set OPENAI_API_KEY or HF_TOKEN to one that this server knows",
    402: "this account has no credit left",
    403: "this key may not use this model: take another key, or another MODEL_NAME",
    404: "no such model or no such address: compare MODEL_NAME with {url}/models,"
    " and see that API_BASE_URL ends in /v1 where the server wants it",
}
_START = "start the server, or set API_BASE_URL to where it listens"


def trouble(error: Exception, body: Mapping[str, Any]) -> Trouble:
    """What `error` means for the request `body`. A defect of our own is raised again."""
    from openai import APIConnectionError, APIStatusError

    if isinstance(error, APIStatusError):
        return _of_status(error, body)
    if isinstance(error, BadReply):
        return Trouble("again", str(error))
    if isinstance(error, TimeoutError):
        return Trouble("again", "no answer in time", "raise timeout_s where the model is slow")
    if isinstance(error, APIConnectionError):
        return _of_connection(error)
    raise error


def _of_connection(error: Exception) -> Trouble:
    """Nobody listening is told apart from a connection that broke, and from an answer that was late."""
    cause = error.__cause__
    why = f"{type(cause or error).__name__}: {cause or error}"
    if type(cause).__name__ == "ConnectError":
        return Trouble("unreachable", f"no connection ({cause})", _START)
    if "Timeout" in type(cause or error).__name__:
        return Trouble("again", "no answer in time", "raise timeout_s where the model is slow")
    return Trouble("again", why)


def _of_status(error: Any, body: Mapping[str, Any]) -> Trouble:
    status, said = int(error.status_code), _said(error)
    why = f"HTTP {status}: {said}"
    if status == 429 and any(word in said for word in _NO_MONEY):
        return Trouble("hopeless", why, _STATUS_REMEDY[402])
    if status in _STATUS_REMEDY:
        return Trouble("hopeless", why, _STATUS_REMEDY[status])
    if status == 413 or (status < 500 and _TOO_LONG.search(said)):
        return Trouble("full", why)
    if status in (400, 422, 501) and (name := _turned_down(said, body)) is not None:
        return Trouble("otherwise", why, turned_down=name)
    wait_s = retry_after(error.response.headers)
    if status == 429:
        return Trouble("busy", why, "lower requests_per_minute or concurrency", wait_s)
    if status < 500 and status not in (408, 409, 425):
        return Trouble("rejected", why)
    return Trouble("again", why, wait_s=wait_s)


def _turned_down(said: str, body: Mapping[str, Any]) -> str | None:
    """The optional field the server speaks of, else the one that servers know least; None if none is sent."""
    sent = [name for name in OPTIONAL if name in body]
    for name in sent:
        if any(word in said for word in _NAMES.get(name, (name,))):
            return name
    return next((name for name in sent if name in ("response_format", "tools")), None)


def _said(error: Any) -> str:
    """The server's own words on one line, cut short."""
    body = error.body
    if isinstance(body, Mapping):
        told = [body.get(key) for key in ("code", "type", "message", "detail", "error")]
        words = " ".join(str(word) for word in told if word)
    else:
        words = str(body or error)
    return " ".join(words.split())[:300] or "no reason given"


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """The seconds a server asks to wait: milliseconds, seconds or a date; None where it does not say."""
    try:
        if (given := headers.get("retry-after-ms")) is not None:
            return max(0.0, float(given) / 1000)
        if (given := headers.get("retry-after")) is None:
            return None
        if re.fullmatch(r"\s*\d+(\.\d*)?\s*", given):
            return float(given)
        return max(0.0, (parsedate_to_datetime(given) - (now or datetime.now(UTC))).total_seconds())
    except (ValueError, TypeError):  # not a number, not a date, or a date without a zone
        return None
