"""Answers from files: a transport that needs no network, for tests and for a first look.

A sample is JSON: `{"request": {"url", "params", "operation", "variables"}, "status", "body"}`. What the
request leaves out matches anything. Knows files; nothing of what an answer means.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.sources.wire import Reply, Request, SourceError, Transport

SAMPLES = Path(__file__).parent / "samples"


class NoSample(SourceError):
    """Nothing was recorded for this question."""


def recorded(folder: Path) -> Transport:
    """A transport that answers from the samples in a folder."""
    samples = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))]

    def answer(request: Request) -> Reply:
        for sample in samples:
            if _same(sample["request"], request):
                return Reply(int(sample.get("status", 200)), json.dumps(sample["body"]).encode())
        raise NoSample(
            f"no sample in {folder} for {request.address}{_operation(request)}; samples exist for few genes and"
            " cancers (docs/sources.md): ask for one of those, or leave out --from-samples"
        )

    return answer


def _same(told: Mapping[str, Any], request: Request) -> bool:
    if told["url"] != request.url:
        return False
    asked = dict(request.params)
    if any(asked.get(name) != value for name, value in told.get("params", {}).items()):
        return False
    body = request.body or {}
    given = body.get("variables", {})
    return told.get("operation") in (None, body.get("operationName")) and all(
        given.get(name) == value for name, value in told.get("variables", {}).items()
    )


def _operation(request: Request) -> str:
    return f" ({request.body.get('operationName')})" if request.body else ""
