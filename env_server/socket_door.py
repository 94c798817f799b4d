"""The socket `/ws`: OpenEnv's protocol on the event loop, one episode a connection.

Knows messages and their order; what they mean is `play.py`'s. A message that cannot be read is
answered and forgotten; only a peer that is gone, silent or deaf loses its seat.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import Any, Final

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from env_server import wire
from env_server.contract import EpisodeOver, JsonObject, RoundsError
from env_server.play import NoEpisode, Play, TooSlow
from env_server.rpc import answer as answer_mcp
from env_server.sessions import Full, Session

log = logging.getLogger("rounds.socket")

TRY_AGAIN_LATER: Final = 1013
IDLE: Final = 4408
REFUSED_WAIT_S: Final = 10.0  # how long a refused peer may take to read why
_FIELDS: Final = ("type", "data", "request_id")


class Unknown(RoundsError):
    """A message type that this protocol does not have."""


async def serve(socket: WebSocket, play: Play) -> None:
    """Play with one peer until it closes, falls silent or cannot be reached."""
    await socket.accept()
    try:
        session = play.table.open(play.family.name, "ws")
    except Full as full:
        await _refuse(socket, full)
        return
    try:
        await _converse(socket, play, session)
    except (WebSocketDisconnect, OSError):
        log.debug("%s: peer gone", session.id)
    finally:
        play.table.close(session)


async def _converse(socket: WebSocket, play: Play, session: Session) -> None:
    while True:
        try:
            async with asyncio.timeout(play.table.idle_s):
                arrived = await socket.receive()
        except TimeoutError:
            await _close(socket, IDLE, f"idle for {play.table.idle_s:.0f} s")
            return
        if arrived["type"] == "websocket.disconnect":
            return
        reply = await _answer(arrived, play, session)
        if reply is None:
            await _close(socket, 1000, "")
            return
        try:
            async with asyncio.timeout(play.limits.send_s):
                await socket.send_text(reply)
        except TimeoutError:
            log.warning("%s: peer did not read for %g s", session.id, play.limits.send_s)
            await _close(socket, TRY_AGAIN_LATER, "not reading")
            return


async def _answer(arrived: Any, play: Play, session: Session) -> str | None:
    """The reply to one frame, or None where the peer asked to close."""
    request_id: object = None
    try:
        raw = arrived.get("text")
        if raw is None:
            raise wire.BadMessage("binary frame; messages are text")
        message = wire.read_object(raw)
        request_id = _request_id(message)
        if message.get("type") == "close":
            return None
        body = await _handle(message, play, session)
    except (RoundsError, Unknown) as error:
        body = error_body(error)
    except Exception:  # the boundary: whatever a family raises is recorded, and told by its id only
        mark = secrets.token_hex(4)
        log.exception("internal error %s in session %s", mark, session.id)
        body = _error("EXECUTION_ERROR", f"internal error {mark}; the server's log says more")
    if request_id is not None:
        body["request_id"] = request_id
    return wire.dumps(body)


async def _handle(message: JsonObject, play: Play, session: Session) -> JsonObject:
    wire.only(message, _FIELDS, "message")
    kind, data = message.get("type"), message.get("data")
    if kind == "mcp":
        return {"type": "mcp", "data": answer_mcp(data)}
    if data is not None and not isinstance(data, dict):
        raise wire.BadMessage(f"data must be an object, not {wire.shown(data)}")
    if kind == "step":
        if data is None:
            raise wire.BadMessage("step needs data: the action")
        return {"type": "observation", "data": play.step(session, data)}
    if kind == "reset":
        wanted = wire.read_begin(play.family, data or {})
        return {"type": "observation", "data": await play.reset(session, wanted)}
    if kind == "state":
        return {"type": "state", "data": play.state(session)}
    raise Unknown(f"no message type {wire.shown(kind)}; types: reset, step, state, mcp, close")


def _request_id(message: JsonObject) -> object:
    """The id to echo, or None. Raises BadMessage on one that is neither text nor a whole number."""
    given = message.get("request_id")
    if given is None or (isinstance(given, int) and not isinstance(given, bool)):
        return given
    return wire.text(message, "request_id")


def error_body(error: RoundsError) -> JsonObject:
    """OpenEnv's error message; `kind` names our exception so that a client can raise it again."""
    codes: dict[type[RoundsError], str] = {
        Unknown: "UNKNOWN_TYPE",
        EpisodeOver: "EPISODE_OVER",
        NoEpisode: "NO_EPISODE",
        TooSlow: "EXECUTION_ERROR",
        Full: "CAPACITY_REACHED",
    }
    code = codes.get(type(error), "VALIDATION_ERROR")
    return _error(code, str(error), kind=type(error).__name__)


def _error(code: str, message: str, **more: str) -> JsonObject:
    return {"type": "error", "data": {"message": message, "code": code, **more}}


async def _refuse(socket: WebSocket, full: Full) -> None:
    """Say why there is no seat, and leave the peer the time to read it before closing."""
    try:
        await socket.send_text(wire.dumps(error_body(full)))
        async with asyncio.timeout(REFUSED_WAIT_S):
            await socket.receive()
    except (TimeoutError, WebSocketDisconnect, OSError):
        log.debug("refused peer left without asking")
    await _close(socket, TRY_AGAIN_LATER, "CAPACITY_REACHED: every session is taken")


async def _close(socket: WebSocket, code: int, reason: str) -> None:
    if socket.client_state is WebSocketState.DISCONNECTED:
        return
    try:
        async with asyncio.timeout(5.0):
            await socket.close(code, reason)
    except (TimeoutError, RuntimeError, WebSocketDisconnect, OSError):
        log.debug("peer gone before the close")
