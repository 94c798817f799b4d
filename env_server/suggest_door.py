"""`POST /agent/suggest`: what an agent would do now, checked by the environment before it is told.

Knows sessions and the agents a family ships; any other player is lent by a room above, by dotted
path. An agent that sees what is hidden is never asked, and no address ever comes from a request.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import Final, TypeAlias, cast

from fastapi import APIRouter, Request
from fastapi.responses import Response

from env_server import wire
from env_server.contract import (
    Action,
    AgentCard,
    Episode,
    EpisodeOver,
    JsonObject,
    Refusal,
    RoundsError,
    UnknownAgent,
    did_you_mean,
)
from env_server.guard import Keeper
from env_server.http_door import body_of, guarded, json_reply, named_session
from env_server.play import Play, TooSlow
from env_server.provided import NotProvided, provided
from env_server.sessions import NoSession, Session
from env_server.workers import Worker

log = logging.getLogger("rounds.suggest")

LENDER: Final = "eval.advice:adviser"
REMEDY: Final = "install the agents: pip install -e '.[agents]'"
AT_ONCE: Final = 4  # suggestions that are thought about at one time
_FIELDS: Final = ("session_id", "observation", "agent")

Adviser: TypeAlias = "Callable[[Episode], Action | Refusal | None]"


@dataclass(slots=True)
class Advice:
    """Who may be asked on this server, and for how long.

    agent: a name the family ships, or a player as `eval.compare` names them; None is each family's
    heuristic. wait_s: until a suggestion is given up.
    """

    agent: str | None = None
    wait_s: float = 30.0
    worker: Worker = field(default_factory=lambda: Worker("advice", lanes=AT_ONCE))
    _borrowed: dict[str, Adviser] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def borrowed(self, play: Play) -> Adviser:
        """The configured player for this family. Raises what says why there is none, and the way out.

        The first call may import and load much: not on the event loop.
        """
        name = play.family.name
        with self._lock:  # threads ask; one of them lends
            if name not in self._borrowed:
                lend = provided(LENDER, REMEDY)
                self._borrowed[name] = cast(Adviser, lend(self.agent, play.family, self.wait_s))
            return self._borrowed[name]


def routes(play: Play, advice: Advice, keeper: Keeper) -> APIRouter:
    """The door of one family, to be mounted beside its others."""
    family = play.family
    router = APIRouter()

    @router.post("/agent/suggest", tags=[family.name], openapi_extra=_shape(play, advice))
    async def suggest(request: Request) -> Response:
        """A legal action for the episode of a session, or of an observation that a session is at."""

        async def work() -> Response:
            body = await body_of(request)
            wire.only(body, _FIELDS, "suggest")
            session = _session(play, request, body)
            name = wire.text(body, "agent") or advice.agent or _heuristic(play).name
            if name == advice.agent and name not in family.agents:
                keeper.spend(request)  # a lent player may cost money
            # a copy: the player may step on while the agent thinks
            episode = await play.copied(session)
            if episode.done:
                raise EpisodeOver(f"episode {episode.episode_id} has ended; reset begins another")
            reply = await suggestion(play, advice, episode, name)
            return json_reply(reply)

        return await guarded(work)

    return router


async def suggestion(play: Play, advice: Advice, episode: Episode, name: str) -> JsonObject:
    """What `name` would do; where the environment would refuse that, what the heuristic would.

    Raises UnknownAgent, NotProvided, or TooSlow.
    """
    found, refusal = await _checked(advice, episode, _adviser(play, advice, name), name)
    reply: JsonObject = {
        "agent": name,
        "action": found.to_json() if found else None,
        "episode_id": episode.episode_id,
        "steps": episode.steps,
        "instead_of": None,
    }
    if found is not None:
        return reply
    card = _heuristic(play)
    found, refused_too = await _checked(advice, episode, _by_card(card), card.name)
    if found is None:
        raise NotProvided(f"no legal suggestion: {name}: {refusal}; {card.name}: {refused_too}")
    reply["instead_of"] = {"agent": name, "why": refusal}
    return {**reply, "agent": card.name, "action": found.to_json()}


async def _checked(
    advice: Advice, episode: Episode, adviser: Adviser, name: str
) -> tuple[Action | None, str]:
    """(the action, "") if the environment would act on it, else (None, why not)."""
    try:
        found = await advice.worker.do(partial(adviser, episode.copy()), advice.wait_s)
    except TimeoutError:
        raise TooSlow(f"{name} made no suggestion within {advice.wait_s:g} s") from None
    except RoundsError as error:
        log.warning("%s made no suggestion: %s", name, error)
        raise NotProvided(f"{name} made no suggestion: {error}") from error
    if found is None:
        return None, "it suggested nothing"
    if isinstance(found, Refusal):
        return None, found.why
    refusal = episode.copy().step(found).refusal
    return (None, refusal.why) if refusal else (found, "")


def _adviser(play: Play, advice: Advice, name: str) -> Adviser:
    card = play.family.agents.get(name)
    if card is not None and card.role != "reference":
        return _by_card(card)
    if card is None and name == advice.agent:
        return lambda episode: advice.borrowed(play)(episode)
    known = (*(c.name for c in _asked_cards(play)), *_configured(play, advice))
    hidden = " (a reference sees what is hidden, and is not asked)" if card else ""
    raise UnknownAgent(did_you_mean(f"{play.family.name} adviser", name, known) + hidden)


def _by_card(card: AgentCard) -> Adviser:
    return lambda episode: card.make(episode).act(episode.observe(), episode.legal_actions)


def _asked_cards(play: Play) -> list[AgentCard]:
    return [card for card in play.family.agents.values() if card.role != "reference"]


def _configured(play: Play, advice: Advice) -> tuple[str, ...]:
    return (advice.agent,) if advice.agent and advice.agent not in play.family.agents else ()


def _heuristic(play: Play) -> AgentCard:
    """The family's heuristic; the first of that role where none has the name."""
    agents: Mapping[str, AgentCard] = play.family.agents
    named = agents.get("heuristic")
    found = named or next((c for c in agents.values() if c.role == "heuristic"), None)
    if found is None:
        raise NotProvided(f"{play.family.name} ships no heuristic to fall back on")
    return found


def _session(play: Play, request: Request, body: JsonObject) -> Session:
    """The session that is named; else the one that stands at the observation sent along."""
    seen = body.get("observation")
    name = named_session(request, body)
    if name is not None or seen is None:
        return play.table.find(play.family.name, name)
    if not isinstance(seen, Mapping):
        raise wire.BadMessage(f"observation must be an object, not {wire.shown(seen)}")
    for session in play.table.living(play.family.name):
        episode = session.episode
        if session.turn.locked():  # in the midst of a step: no longer at what anybody saw
            continue
        if episode is not None and episode.episode_id == seen.get("episode_id", episode.episode_id):
            shown = wire.begun(episode, play.style)["observation"]
            if json.loads(wire.dumps(shown)) == seen:  # by value: a browser writes 25.0 as 25
                return session
    raise NoSession(
        "no episode of this server stands at this observation; send session_id, or the latest"
        " observation of an episode begun here"
    )


def _shape(play: Play, advice: Advice) -> JsonObject:
    """What OpenAPI says of the request."""
    name = {"type": "string", "maxLength": wire.MAX_ID}
    agents = [*(card.name for card in _asked_cards(play)), *_configured(play, advice)]
    asked = {
        "type": "object",
        "properties": {
            "session_id": name,
            "observation": {"type": "object"},
            "agent": {"type": "string", "enum": agents},
        },
        "additionalProperties": False,
    }
    return {"requestBody": {"content": {"application/json": {"schema": asked}}}}
