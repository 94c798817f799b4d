"""What an episode hides, for whoever debugs an environment: closed unless the server was told to open it.

Knows sessions, and that a family may tell its latent state; nothing of what that is. Never open it
where anybody trains or is measured: whoever may play could then look.
"""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import Response

from env_server.guard import Keeper
from env_server.http_door import guarded, json_reply, named_session
from env_server.play import Play
from env_server.provided import NotProvided

WARNING: Final = "/debug/latent tells what episodes hide: not for training or measuring"


def routes(play: Play, keeper: Keeper) -> APIRouter:
    """GET /debug/latent of one family, for the keeper of the server alone."""
    router = APIRouter(tags=["debug"])
    family, table = play.family, play.table

    @router.get("/debug/latent")
    async def latent(request: Request) -> Response:
        """The hidden state of the session's episode, and what the evidence so far says of it."""

        async def work() -> Response:
            keeper.admit(request)
            tell = getattr(family, "latent", None)
            if tell is None:
                raise NotProvided(
                    f"{family.name} tells no latent state; its outcome says what was hidden"
                )
            session = table.find(family.name, named_session(request, {}))
            return json_reply(tell(await play.copied(session)), session=session)

        return await guarded(work)

    return router
