"""The typed API `/v1/sessions`: create, step one or many, look, snapshot, delete; types in OpenAPI.

Knows requests and replies; what they mean is `play.py`'s. A session here is always named by its id,
and belongs to whoever holds it.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from env_server import wire
from env_server.contract import JsonObject, RoundsError, options_of
from env_server.guard import Keeper
from env_server.http_door import Behind, body_of, guarded, json_reply, problem, status_of
from env_server.openapi import ref
from env_server.pace import Share
from env_server.play import NoEpisode, Play
from env_server.sessions import Session

_STEP_FIELDS: Final = ("action", "at")
_ONE_FIELDS: Final = ("session_id", *_STEP_FIELDS)
_ID: Final[JsonObject] = {"type": "string", "minLength": 1, "maxLength": wire.MAX_ID}
_COUNT: Final[JsonObject] = {"type": "integer", "minimum": 0, "maximum": wire.MAX_SEED}


def routes(play: Play, keeper: Keeper) -> APIRouter:
    """The typed doors of one family, to be mounted at the root and under /envs/<family>."""
    family, table = play.family, play.table
    router = APIRouter(prefix="/v1/sessions", tags=[f"{family.name} sessions"])
    shapes = Shapes(play)

    @router.post("", status_code=201, **shapes.create())
    async def create(request: Request) -> Response:
        """Begin an episode in a session of its own: a case, or a snapshot to play on from."""

        async def work() -> Response:
            body = await body_of(request)
            snapshot = body.pop("snapshot", None)
            if snapshot is not None and body:
                raise wire.BadMessage("a snapshot says which case it is; send it alone")
            wanted = wire.read_begin(family, body)
            session = table.open(family.name, "http", named=True)
            try:
                if snapshot is None:
                    reply = await play.reset(session, wanted)
                else:
                    reply = await play.restore(session, snapshot)
            except BaseException:
                table.close(session)
                raise
            return json_reply({"session_id": session.id, **reply}, 201, session)

        return await guarded(work)

    @router.post("/step", **shapes.batch())
    async def step_many(request: Request) -> Response:
        """Act once in each of many sessions; every one is answered in its place, with its status."""

        async def work() -> Response:
            body = await body_of(request)
            wire.only(body, ("steps",), "batch")
            steps, most = body.get("steps"), play.limits.batch
            if not isinstance(steps, list) or not 1 <= len(steps) <= most:
                raise wire.BadMessage(f"steps must be a list of 1 to {most} steps")
            results, share = [], Share()
            for one in steps:
                await share.pause()
                results.append(await _one(play, one))
            return json_reply({"results": results})

        return await guarded(work)

    @router.post("/{session_id}/step", **shapes.step())
    async def step(session_id: str, request: Request) -> Response:
        """Act once. An action that cannot be read or done costs a step and says why in `refusal`."""

        async def work() -> Response:
            body = await body_of(request)
            wire.only(body, _STEP_FIELDS, "step")
            session = table.find(family.name, session_id)
            return json_reply(await _act(play, session, body), session=session)

        return await guarded(work)

    @router.get("/{session_id}", **shapes.look())
    async def look(session_id: str) -> Response:
        """Where the episode stands, for whoever lost the last reply."""

        async def work() -> Response:
            session = table.find(family.name, session_id)
            episode = await play.copied(session)
            reply = {**wire.begun(episode, play.style, session.options), "steps": episode.steps}
            return json_reply({"session_id": session.id, **reply}, session=session)

        return await guarded(work)

    @router.get("/{session_id}/state", **shapes.state())
    async def state(session_id: str) -> Response:
        """The counters of the episode; nothing hidden."""

        async def work() -> Response:
            session = table.find(family.name, session_id)
            return json_reply(await play.state(session), session=session)

        return await guarded(work)

    @router.get("/{session_id}/snapshot", **shapes.snapshot())
    async def snapshot(session_id: str) -> Response:
        """The case and the actions so far: create takes it back, on this server or another."""

        async def work() -> Response:
            session = table.find(family.name, session_id)
            return json_reply(await play.snapshot(session), session=session)

        return await guarded(work)

    @router.delete("/{session_id}", status_code=204, **shapes.delete())
    async def delete(session_id: str) -> Response:
        """Give the seat back."""

        async def work() -> Response:
            table.close(table.find(family.name, session_id))
            return Response(status_code=204)

        return await guarded(work)

    @router.get("", **shapes.listed())
    async def listed(request: Request) -> Response:
        """Every session of this family; for the server's keeper alone, since an id is all it takes."""

        async def work() -> Response:
            keeper.admit(request)
            mine = [one for one in table.all() if one.family == family.name]
            return json_reply({"sessions": [_told(play, one) for one in mine]})

        return await guarded(work)

    @router.delete("", **shapes.cleared())
    async def clear(request: Request, idle_s: float = Query(0.0, ge=0.0, le=1e9)) -> Response:
        """Close the HTTP sessions of this family that nobody used for `idle_s`; the keeper's too."""

        async def work() -> Response:
            keeper.admit(request)
            mine = [one for one in table.all() if one.family == family.name and one.kind == "http"]
            old = [one for one in mine if table.idle(one) >= idle_s]
            for one in old:
                table.close(one)
            return json_reply({"closed": len(old)})

        return await guarded(work)

    return router


async def _one(play: Play, one: object) -> JsonObject:
    """The result of one step of a batch: as if it had come alone, with the status it had got."""
    name: str | None = None
    try:
        if not isinstance(one, dict):
            raise wire.BadMessage(f"a step must be an object, not {wire.shown(one)}")
        wire.only(one, _ONE_FIELDS, "step")
        name = wire.text(one, "session_id")
        if name is None:
            raise wire.BadMessage("a step of a batch needs its session_id")
        session = play.table.find(play.family.name, name)
        reply = await _act(play, session, one)
        return {"session_id": name, "status": 200, **reply}
    except RoundsError as error:
        return {"session_id": name, "status": status_of(error), **problem(error)}


async def _act(play: Play, session: Session, body: JsonObject) -> JsonObject:
    """The reply to a step. Raises Behind where `at` is not the number of steps taken so far."""
    at, action = body.get("at"), body.get("action")
    if not isinstance(action, dict):
        raise wire.BadMessage(f"action must be an object, not {wire.shown(action)}")
    if at is not None:
        if isinstance(at, bool) or not isinstance(at, int):
            raise wire.BadMessage(f"at must be a whole number, not {wire.shown(at)}")
        async with session.turn:
            if session.episode is None:
                raise NoEpisode("no episode any more; delete this session and create another")
            taken = session.episode.steps
            if taken != at:
                raise Behind(f"{taken} steps were taken, not {at}; GET the session to see where")
            return await play.step_in_turn(session, action)
    return await play.step(session, action)


def _told(play: Play, session: Session) -> JsonObject:
    episode = session.episode
    return {
        "session_id": session.id,
        "kind": session.kind,
        "task_id": episode.task.name if episode else None,
        "steps": episode.steps if episode else 0,
        "over": session.over,
        "idle_s": round(play.table.idle(session), 3),
    }


class Shapes:
    """What OpenAPI says of these doors: bodies are read by hand, so they are described by hand."""

    def __init__(self, play: Play) -> None:
        self.family, self.most = play.family, play.limits.batch
        splits = sorted({split for task in self.family.tasks.values() for split in task.splits})
        self._case: JsonObject = {
            "task_id": {"type": "string", "enum": list(self.family.tasks)},
            "seed": _COUNT,
            "split": {"type": "string", "enum": splits},
            "episode_id": _ID,
            **{key: option.schema() for key, option in options_of(self.family).items()},
        }
        refusal = _object(
            {
                "kind": {"enum": list(wire.REFUSAL_KINDS)},
                "why": {"type": "string", "maxLength": wire.MAX_WHY},
            },
            ["kind", "why"],
        )
        refused = _object({"refusal": refusal}, ["refusal"])
        self._step: JsonObject = {
            "action": {"anyOf": [ref(self.family, "Action"), refused]},
            "at": {**_COUNT, "description": "steps taken so far; 409 where it was another number"},
        }
        self._begun: JsonObject = {
            "observation": ref(self.family, "Observation"),
            "reward": {"type": ["number", "null"]},
            "done": {"type": "boolean"},
            "episode_id": {"type": "string"},
            "task": {"type": "object"},
            "seed": {"type": "integer"},
            "split": {"type": "string"},
        }
        self._stepped: JsonObject = {
            "observation": ref(self.family, "Observation"),
            "reward": {"type": "number"},
            "parts": {"type": "object", "additionalProperties": {"type": "number"}},
            "done": {"type": "boolean"},
            "refusal": {"anyOf": [refusal, {"type": "null"}]},
            "info": {"type": "object"},
        }
        self._ended: JsonObject = {
            "score": {"type": "number", "minimum": 0.0, "maximum": 1.0},
            "outcome": {"type": "object"},
            "state": ref(self.family, "State"),
        }
        self._snapshot: JsonObject = _object(
            {
                "family": {"const": self.family.name},
                "version": {"type": "string"},
                **self._case,
                "actions": {
                    "type": "array",
                    "items": self._step["action"],
                    "maxItems": wire.MAX_PLAYED,
                },
                "steps": _COUNT,
                "done": {"type": "boolean"},
            },
            ["seed", "task_id", "actions"],
        )

    def create(self) -> dict[str, Any]:
        asked = _object({**self._case, "snapshot": self._snapshot}, [])
        reply = {"session_id": _ID, **self._begun}
        # a restored episode may be past its first step, or over
        more = {**self._stepped, **self._ended, **reply}
        return self._route("create", "201", _open(more, list(reply)), asked, required=False)

    def step(self) -> dict[str, Any]:
        reply = _open({**self._stepped, **self._ended}, list(self._stepped))
        return self._route("step", "200", reply, _object(self._step, ["action"]))

    def batch(self) -> dict[str, Any]:
        one = _object({"session_id": _ID, **self._step}, ["session_id", "action"])
        steps = {"type": "array", "items": one, "minItems": 1, "maxItems": self.most}
        result = _open(
            {
                "session_id": {"type": ["string", "null"]},
                "status": {"type": "integer"},
                "detail": {"type": "string"},
                "kind": {"type": "string"},
                **self._stepped,
                **self._ended,
            },
            ["session_id", "status"],
        )
        reply = _open({"results": {"type": "array", "items": result}}, ["results"])
        return self._route("step_many", "200", reply, _object({"steps": steps}, ["steps"]))

    def look(self) -> dict[str, Any]:
        reply = {"session_id": _ID, **self._begun, "steps": _COUNT}
        return self._route("look", "200", _open(reply, list(reply)))

    def state(self) -> dict[str, Any]:
        return self._route("state", "200", ref(self.family, "State"))

    def snapshot(self) -> dict[str, Any]:
        return self._route("snapshot", "200", self._snapshot)

    def delete(self) -> dict[str, Any]:
        return self._route("delete", "204", None)

    def listed(self) -> dict[str, Any]:
        reply = _open({"sessions": {"type": "array", "items": {"type": "object"}}}, ["sessions"])
        return self._route("list", "200", reply)

    def cleared(self) -> dict[str, Any]:
        return self._route("clear", "200", _open({"closed": _COUNT}, ["closed"]))

    def _route(
        self,
        verb: str,
        status: str,
        reply: JsonObject | None,
        asked: JsonObject | None = None,
        *,
        required: bool = True,
    ) -> dict[str, Any]:
        """Keywords of a route's decorator."""
        wrong = _open({"detail": {"type": "string"}, "kind": {"type": "string"}}, ["detail"])
        answers: dict[int | str, Any] = {
            code: {"description": words, "content": _json(wrong)} for code, words in _WORDS.items()
        }
        answers[status] = {"description": "done"} | ({"content": _json(reply)} if reply else {})
        route: dict[str, Any] = {
            "responses": answers,
            "summary": verb.replace("_", " "),
            "response_class": Response,
        }
        if asked is not None:
            body = {"required": required, "content": _json(asked)}
            route["openapi_extra"] = {"requestBody": body}
        return route


_WORDS: Final = {
    "401": "the server's token is needed",
    "403": "closed on this server",
    "404": "no such session",
    "409": "no episode, it has ended, or it is at another step",
    "413": "body too large",
    "422": "not a valid request",
    "429": "too many requests",
    "503": "every session is taken, or the server is stopping",
}


def _json(schema: JsonObject) -> JsonObject:
    return {"application/json": {"schema": schema}}


def _object(properties: JsonObject, required: list[str]) -> JsonObject:
    return {**_open(properties, required), "additionalProperties": False}


def _open(properties: JsonObject, required: list[str]) -> JsonObject:
    shape: JsonObject = {"type": "object", "properties": properties}
    return {**shape, "required": required} if required else shape
