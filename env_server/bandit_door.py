"""The routes /bandit/*: what a trained bandit says of drug combinations.

Knows requests and replies, and one protocol; the bandit itself lives in a room above and is borrowed
when first asked for. Where it cannot be had the answer is 503 with the remedy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from fastapi import APIRouter, Request
from fastapi.responses import Response

from env_server import wire
from env_server.contract import JsonObject, RoundsError
from env_server.http_door import body_of, guarded, json_reply
from env_server.provided import NotProvided, provided

SCREEN: Final = "eval.screening:open_screen"
SNAPSHOT: Final = "runs/bandit/demo"
REMEDY: Final = "install what it needs with: pip install 'rounds[train]'"
MAX_COMBINATIONS: Final = 1000
MAX_DRUGS: Final = 100


class Screen(Protocol):
    """A trained bandit. A drug is whatever its training called it: a name or a number."""

    def screen(self, asked: Sequence[Sequence[object]]) -> list[JsonObject]:
        """One verdict a combination, in order. Raises RoundsError for a drug it does not know."""
        ...

    def metrics(self) -> JsonObject: ...


@dataclass(slots=True)
class Lent:
    """The bandit of one folder, opened when first asked for."""

    path: str
    folder: str
    _opened: Screen | None = None

    async def get(self) -> Screen:
        if self._opened is None:
            self._opened = await asyncio.to_thread(self._open)
        return self._opened

    def _open(self) -> Screen:
        opener = provided(self.path, REMEDY)
        try:
            screen: Screen = opener(self.folder)
        except ImportError as missing:
            raise NotProvided(f"{self.path} needs {missing.name}; {REMEDY}") from missing
        except RoundsError as missing:  # not trained yet: it says which command does it
            raise NotProvided(str(missing)) from missing
        return screen


def routes(folder: str = SNAPSHOT, path: str = SCREEN) -> APIRouter:
    """Doors onto the bandit that `path` opens from `folder`."""
    router, lent = APIRouter(prefix="/bandit", tags=["bandit"]), Lent(path, folder)

    @router.post("/predict", openapi_extra=_body({"drugs": _DRUGS}))
    async def predict(request: Request) -> Response:
        """The risk of one combination: {"drugs": [...]}."""

        async def work() -> Response:
            body = await body_of(request)
            wire.only(body, ("drugs",), "bandit/predict")
            asked = [_combination(body.get("drugs"), "drugs")]
            bandit = await lent.get()
            return json_reply((await asyncio.to_thread(bandit.screen, asked))[0])

        return await guarded(work)

    @router.post("/screen", openapi_extra=_body({"combinations": _COMBINATIONS}))
    async def screen(request: Request) -> Response:
        """The risks of many: {"combinations": [[...], ...]}, answered in order."""

        async def work() -> Response:
            body = await body_of(request)
            wire.only(body, ("combinations",), "bandit/screen")
            asked = _combinations(body.get("combinations"))
            bandit = await lent.get()
            verdicts = await asyncio.to_thread(bandit.screen, asked)
            dangerous = sum(bool(v["dangerous"]) for v in verdicts)
            return json_reply({"results": verdicts, "dangerous": dangerous})

        return await guarded(work)

    @router.get("/metrics")
    async def metrics() -> Response:
        """How the bandit was trained, and how its search went."""

        async def work() -> Response:
            return json_reply((await lent.get()).metrics())

        return await guarded(work)

    return router


def _combinations(given: Any) -> list[list[object]]:
    if not isinstance(given, list) or not 1 <= len(given) <= MAX_COMBINATIONS:
        raise wire.BadMessage(
            f"combinations must be a list of 1 to {MAX_COMBINATIONS} combinations, not {wire.shown(given)}"
        )
    return [_combination(one, f"combinations[{at}]") for at, one in enumerate(given)]


def _combination(given: Any, where: str) -> list[object]:
    if not isinstance(given, list) or not 1 <= len(given) <= MAX_DRUGS:
        raise wire.BadMessage(
            f"{where} must be a list of 1 to {MAX_DRUGS} drugs, not {wire.shown(given)}"
        )
    return list(given)


_DRUGS: Final[JsonObject] = {
    "type": "array",
    "items": {"type": ["string", "integer"]},
    "minItems": 1,
    "maxItems": MAX_DRUGS,
}
_COMBINATIONS: Final[JsonObject] = {"type": "array", "items": _DRUGS, "maxItems": MAX_COMBINATIONS}


def _body(properties: JsonObject) -> JsonObject:
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
