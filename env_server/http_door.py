"""The HTTP routes of one family: OpenEnv's paths, with a memory from one request to the next.

Knows requests and replies; what they mean is `play.py`'s. A session is named by the header
X-Session-Id, by ?session_id= or by a body field; without a name, the latest one is meant.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from fastapi import APIRouter, Request, WebSocket
from fastapi.responses import Response
from starlette.requests import ClientDisconnect

from env_server import rpc, socket_door, wire
from env_server.contract import EpisodeOver, JsonObject, RoundsError, options_of
from env_server.guard import Forbidden, Unauthorized
from env_server.peers import Peers
from env_server.play import NoEpisode, Play, TooSlow
from env_server.provided import NotProvided
from env_server.sessions import Full, NoSession, Session, Stopping

log = logging.getLogger("rounds.http")

SESSION_HEADER: Final = "X-Session-Id"
_STEP_FIELDS: Final = ("action", "session_id", "timeout_s", "request_id")


class TooLarge(RoundsError):
    """A body over the limit."""


class Behind(RoundsError):
    """The episode is not where the request thinks it is: nothing was done."""


_STATUS: Final[dict[type[RoundsError], int]] = {
    Unauthorized: 401,
    Forbidden: 403,
    Behind: 409,
    Stopping: 503,
    NoSession: 404,
    NoEpisode: 409,
    EpisodeOver: 409,
    TooLarge: 413,
    Full: 503,
    TooSlow: 503,
    NotProvided: 503,
}


def json_reply(body: object, status: int = 200, session: Session | None = None) -> Response:
    headers = {SESSION_HEADER: session.id} if session else {}
    if status == 503:
        headers["Retry-After"] = "5"
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(
        wire.dumps(body), status_code=status, media_type="application/json", headers=headers
    )


async def guarded(work: Callable[[], Awaitable[Response]]) -> Response:
    """Run `work`; a caller's mistake becomes its status and words, ours a 500 with an id."""
    try:
        return await work()
    except RoundsError as error:
        return json_reply(problem(error), status_of(error))
    except ClientDisconnect:
        log.debug("the peer left before its request was whole")
        return Response(status_code=400)  # which nobody reads
    except Exception:  # the boundary: recorded, and told by its id only
        mark = secrets.token_hex(4)
        log.exception("internal error %s", mark, extra={"error_id": mark})
        return json_reply({"detail": f"internal error {mark}; the server's log says more"}, 500)


def status_of(error: RoundsError) -> int:
    return _STATUS.get(type(error), 422)


def problem(error: RoundsError) -> JsonObject:
    """What a caller is told of its mistake."""
    return {"detail": str(error), "kind": type(error).__name__}


async def body_of(request: Request) -> JsonObject:
    """The request's JSON object, {} for an empty body, whatever its declared type."""
    limit: int = getattr(request.app.state, "body_bytes", wire.MAX_FRAME)
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > limit:
            raise TooLarge(f"body over {limit} bytes")
    return wire.read_object(bytes(raw), limit) if raw.strip() else {}


def named_session(request: Request, body: JsonObject) -> str | None:
    """The session the request names: header, then query, then body."""
    return (
        request.headers.get(SESSION_HEADER)
        or request.query_params.get("session_id")
        or wire.text(body, "session_id")
    )


def _action(body: JsonObject) -> JsonObject:
    """The action of a step's body, bare or under "action"."""
    if "action" not in body:
        return {key: value for key, value in body.items() if key != "session_id"}
    wire.only(body, _STEP_FIELDS, "step")
    if not isinstance(body["action"], dict):
        raise wire.BadMessage(f"action must be an object, not {wire.shown(body['action'])}")
    action: JsonObject = body["action"]
    return action


def routes(play: Play, peers: Peers) -> APIRouter:
    """The doors of one family, to be mounted at the root and under /envs/<family>."""
    family, table = play.family, play.table
    router = APIRouter()
    shapes = _shapes(play)

    @router.post("/reset", openapi_extra=shapes["reset"], tags=[family.name])
    async def reset(request: Request) -> Response:
        """Begin an episode; opens a session unless one is named."""

        async def work() -> Response:
            body = await body_of(request)
            name = named_session(request, body)
            body.pop("session_id", None)
            wanted = wire.read_begin(family, body)  # first: a mistake must not cost a seat
            session = table.find(family.name, name) if name else table.open(family.name, "http")
            try:
                reply = await play.reset(session, wanted)
            except BaseException:
                if session.episode is None:
                    table.close(session)
                raise
            return json_reply({**reply, "session_id": session.id}, session=session)

        return await guarded(work)

    @router.post("/step", openapi_extra=shapes["step"], tags=[family.name])
    async def step(request: Request) -> Response:
        """Act once. An action that cannot be read or done costs a step and says why in `refusal`."""

        async def work() -> Response:
            body = await body_of(request)
            session = table.find(family.name, named_session(request, body))
            return json_reply(await play.step(session, _action(body)), session=session)

        return await guarded(work)

    @router.get("/state", openapi_extra=shapes["state"], tags=[family.name])
    async def state(request: Request) -> Response:
        """The counters of the episode; nothing hidden."""

        async def work() -> Response:
            session = table.find(family.name, named_session(request, {}))
            return json_reply(await play.state(session), session=session)

        return await guarded(work)

    @router.get("/schema", tags=[family.name])
    async def schema() -> Response:
        """JSON schemas of action, observation and state."""
        return json_reply(wire.schemas(family))

    @router.get("/metadata", tags=[family.name])
    async def metadata() -> Response:
        """What this environment is, and its tasks."""
        return json_reply(about(play))

    @router.get("/health", tags=[family.name])
    async def health() -> Response:
        """Whether the server answers."""
        return json_reply({"status": "healthy"})

    @router.post("/mcp", tags=[family.name])
    async def mcp(request: Request) -> Response:
        """JSON-RPC 2.0; these environments offer no tools."""

        async def work() -> Response:
            try:
                body: object = await body_of(request)
            except wire.BadMessage:
                body = None
            return json_reply(rpc.answer(body))

        return await guarded(work)

    @router.websocket("/ws")
    async def ws(socket: WebSocket) -> None:
        await socket_door.serve(socket, play, peers)

    return router


def about(play: Play) -> JsonObject:
    """OpenEnv's metadata, and the tasks with their limits."""
    family = play.family
    return {
        "name": family.name,
        "description": family.summary,
        "version": family.version,
        "author": "Rounds contributors",
        "reward_style": play.style,
        "default_task": family.default_task,
        "tasks": [
            {
                "id": task.name,
                "description": task.summary,
                "difficulty": task.difficulty,
                "max_steps": task.max_steps,
                "splits": list(task.splits),
            }
            for task in family.tasks.values()
        ],
        "options": {key: option.schema() for key, option in options_of(family).items()},
    }


def package_version() -> str:
    try:
        return version("rounds")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "0+checkout"


def _shapes(play: Play) -> dict[str, JsonObject]:
    """What OpenAPI says of the three verbs: bodies are read by hand, so they are described by hand."""
    family = play.family
    name = {"type": "string", "maxLength": wire.MAX_ID}
    asked: JsonObject = {
        "type": "object",
        "properties": {
            "task_id": {"type": "string", "enum": list(family.tasks)},
            "seed": {"type": "integer", "minimum": 0, "maximum": wire.MAX_SEED},
            "split": {"type": "string"},
            "episode_id": name,
            "session_id": name,
            **{key: option.schema() for key, option in options_of(family).items()},
        },
        "additionalProperties": False,
    }
    acted: JsonObject = {
        "type": "object",
        "properties": {"action": family.action_schema(), "session_id": name},
        "required": ["action"],
    }
    reply: JsonObject = {
        "type": "object",
        "properties": {
            "observation": {"type": "object"},
            "reward": {"type": ["number", "null"]},
            "done": {"type": "boolean"},
            "parts": {"type": "object"},
            "refusal": {"type": ["object", "null"]},
            "info": {"type": "object"},
        },
    }
    state = wire.model(family, "State").model_json_schema()
    return {
        "reset": {**_body(asked, required=False), **_answers(reply)},
        "step": {**_body(acted, required=True), **_answers(reply)},
        "state": _answers(state),
    }


def _body(schema: JsonObject, required: bool) -> JsonObject:
    content = {"application/json": {"schema": schema}}
    return {"requestBody": {"required": required, "content": content}}


def _answers(schema: JsonObject) -> JsonObject:
    wrong: Any = {"type": "object", "properties": {"detail": {"type": "string"}}}
    said = {"application/json": {"schema": wrong}}
    return {
        "responses": {
            "200": {"description": "done", "content": {"application/json": {"schema": schema}}},
            "404": {"description": "no such session", "content": said},
            "409": {"description": "no episode, or it has ended", "content": said},
            "413": {"description": "body too large", "content": said},
            "422": {"description": "not a valid request", "content": said},
            "503": {"description": "every session is taken", "content": said},
        }
    }
