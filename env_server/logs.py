"""How the server writes its log: lines for people or JSON for machines, each with the ids it belongs to.

Knows records and two context variables; nothing of what is logged.
"""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Final, Literal, TextIO

Format = Literal["text", "json"]

# set where a request or a socket enters, read by every line written on its behalf
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
session_id: ContextVar[str | None] = ContextVar("session_id", default=None)

# fields that our calls add by `extra=`
FIELDS: Final = ("error_id", "method", "path", "status", "ms", "peer", "frames", "why", "family")


class WithIds(logging.Filter):
    """Puts the ids of the request and the session on every record."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        record.session_id = session_id.get()
        return True


class Lines(logging.Formatter):
    """`LEVEL logger: message [session request]`, as a person reads it."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s%(ids)s")

    def format(self, record: logging.LogRecord) -> str:
        ids = [getattr(record, name, None) for name in ("session_id", "request_id")]
        spelled = " ".join(id for id in ids if id)
        record.ids = f" [{spelled}]" if spelled else ""
        return super().format(record)


class Json(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        body: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name in ("request_id", "session_id", *FIELDS):
            if (value := getattr(record, name, None)) is not None:
                body[name] = value
        if record.exc_info:
            body["exception"] = self.formatException(record.exc_info)
        return json.dumps(body, ensure_ascii=False, default=str)


def begin(level: str, form: Format, stream: TextIO | None = None) -> None:
    """Send every logger of this process to `stream` (stderr) in this form."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(Json() if form == "json" else Lines())
    handler.addFilter(WithIds())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    # its own word on every dropped or refused peer; ours has the ids
    logging.getLogger("uvicorn.error").setLevel(max(root.level, logging.WARNING))
    logging.getLogger("websockets").setLevel(max(root.level, logging.WARNING))
