"""Answers that were paid for once, on disk: the same request is not asked twice.

Keyed by everything that was asked (address, model, messages, limits); never by, or with, a key.
Knows files; whatever cannot be read there counts as not there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from env_server.contract import JsonObject, canonical

FOLDER = Path("runs/cache/llm")


class AnswerCache:
    """One file an answer, under two characters of its name."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self.folder = folder

    def get(self, request: Mapping[str, Any]) -> JsonObject | None:
        """The answer to this very request, or None; a file that is damaged is as good as none."""
        try:
            kept = json.loads(self._path(request).read_bytes())
        except (OSError, ValueError):  # also UnicodeDecodeError
            return None
        if not isinstance(kept, dict) or kept.get("request") != self._name(request):
            return None
        answer = kept.get("answer")
        return answer if isinstance(answer, dict) else None

    def put(self, request: Mapping[str, Any], answer: JsonObject) -> None:
        """Keep an answer; another process writing the same one is harmless."""
        path = self._path(request)
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            file.write(canonical({"request": self._name(request), "answer": answer}))
        os.replace(file.name, path)  # whole or not at all

    def _path(self, request: Mapping[str, Any]) -> Path:
        name = self._name(request)
        return self.folder / name[:2] / f"{name}.json"

    def _name(self, request: Mapping[str, Any]) -> str:
        return blake2b(canonical(request), digest_size=16).hexdigest()
