"""The socket `/ws`: OpenEnv's protocol on the event loop, one episode a connection, more by batch.

Knows messages and their order; what they mean is `play.py`'s. A message that cannot be read is
answered and forgotten; only a peer that is gone, silent or deaf loses its seat. Under a server that
offers PROMPT, a step that need not wait is answered as it arrives, without a turn of the task.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from contextvars import copy_context
from time import monotonic
from typing import Any, Final

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from env_server import wire
from env_server.contract import EpisodeOver, JsonObject, RoundsError
from env_server.guard import Bucket, bucket
from env_server.logs import session_id
from env_server.pace import Share
from env_server.peers import RESTART, Peer, Peers
from env_server.play import NoEpisode, Play, TooSlow
from env_server.rpc import answer as answer_mcp
from env_server.sessions import Full, Session, Stopping

log = logging.getLogger("rounds.socket")

TRY_AGAIN_LATER: Final = 1013
REFUSED_WAIT_S: Final = 10.0  # how long a refused peer may take to read why
ABORT: Final = "rounds.abort"  # the ASGI extension that drops a connection without a goodbye
# the ASGI extension that takes a function: it is shown each text that arrives while the door waits for
# one, and either returns the reply or None, and then the message comes the usual way
PROMPT: Final = "rounds.prompt"
Prompt = Callable[[str], bytes | None]
_FIELDS: Final = ("type", "data", "request_id")
ABREAST: Final = 16  # episodes of one frame that wait at one time
_BATCHED: Final = ("type", "data", "request_id", "episode")
_CODES: Final[dict[type[RoundsError], str]] = {
    EpisodeOver: "EPISODE_OVER",
    NoEpisode: "NO_EPISODE",
    TooSlow: "EXECUTION_ERROR",
    Full: "CAPACITY_REACHED",
    Stopping: "SERVER_STOPPING",
}


class Unknown(RoundsError):
    """A message type that this protocol does not have."""


async def serve(socket: WebSocket, play: Play, peers: Peers) -> None:
    """Play with one peer until it closes, falls silent or cannot be reached."""
    await socket.accept()
    try:
        session = play.table.open(play.family.name, "ws")
    except (Full, Stopping) as no:
        await _refuse(socket, no)
        return
    mark = session_id.set(session.id)
    peer = Peer(session, play.table.idle_s, play.limits.send_s)
    why = "error"
    try:
        with peers.present(peer):
            why = await _attend(socket, play, peer)
    finally:
        for seat in (session, *peer.seats.values()):
            play.table.close(seat)
        play.metrics.dropped.add(why)
        log.info("socket closed: %s", why, extra={"why": why, "frames": peer.frames})
        session_id.reset(mark)


async def _attend(socket: WebSocket, play: Play, peer: Peer) -> str:
    """Converse to the end; the one word for how it ended."""
    try:
        async with asyncio.timeout(None) as peer.leash:
            await _converse(socket, play, peer)
    except TimeoutError:
        if peer.deaf:
            # a goodbye would wait behind what it does not read
            socket.scope.get("extensions", {}).get(ABORT, lambda: None)()
            return "deaf"
        code, reason = peer.verdict or (TRY_AGAIN_LATER, "")
        await _close(socket, code, reason)
        return "stopping" if peer.stopping else "idle"
    except (WebSocketDisconnect, OSError):
        return "gone"
    if peer.stopping:
        await _close(socket, RESTART, "this server is stopping")
        return "stopping"
    await _close(socket, 1000, "")
    return "peer"


async def _converse(socket: WebSocket, play: Play, peer: Peer) -> None:
    offered = socket.scope.get("extensions", {}).get(PROMPT)
    if offered is None or play.limits.rate:  # a rate is kept by waiting
        await _listen(socket, play, peer)
        return
    context = copy_context()  # what is logged bears the session's id

    def prompt(raw: str) -> bytes | None:
        return context.run(_prompt, play, peer, raw)

    offered(prompt)
    try:
        await _listen(socket, play, peer)
    finally:
        offered(None)


async def _listen(socket: WebSocket, play: Play, peer: Peer) -> None:
    frames = bucket(play.limits, monotonic()) if play.limits.rate else None
    name = play.family.name
    while not peer.stopping:
        peer.turn("reading")
        arrived = await socket.receive()
        if arrived["type"] == "websocket.disconnect":
            return
        peer.turn("working")
        peer.frames += 1
        if frames is not None:
            await _hold_back(frames)
        reply = await _answer(arrived, play, peer)
        if reply is None:
            return
        play.metrics.frames.add(name)
        peer.turn("writing")
        await socket.send_text(reply)


async def _hold_back(frames: Bucket) -> None:
    """A peer over its rate is read more slowly: nothing is lost, and the pressure is its own."""
    while (wait_s := frames.take(monotonic())) > 0.0:
        await asyncio.sleep(wait_s)


def _prompt(play: Play, peer: Peer, raw: str) -> bytes | None:
    """The reply to a step that need not wait; None, and nothing was done, for any other frame."""
    if not peer.waited_for:
        return None
    try:
        message = wire.read_object(raw, play.limits.body_bytes)
    except wire.BadMessage:
        return None  # told the usual way
    body = _at_once(message, _FIELDS, play, peer)
    if body is None:
        return None
    peer.frames += 1
    peer.turn("reading")
    play.metrics.frames.add(play.family.name)
    try:
        return wire.encoded(body)
    except Exception as error:  # a number that JSON cannot hold
        return wire.encoded(_labelled(_failed(error, play), None, message.get("request_id")))


def _at_once(message: object, fields: tuple[str, ...], play: Play, peer: Peer) -> JsonObject | None:
    """The reply to a step of an episode under way that need not wait; else None, and nothing was done."""
    if not isinstance(message, dict) or message.get("type") != "step":
        return None
    data = message.get("data")
    try:
        wire.only(message, fields, "message")
        name, request_id = wire.text(message, "episode"), _request_id(message)
    except wire.BadMessage:
        return None
    session = peer.own if name is None else peer.seats.get(name)
    if session is None or session.episode is None or not isinstance(data, dict):
        return None
    try:
        told = play.step_at_once(session, data)
    except Exception as error:
        return _labelled(_failed(error, play), name, request_id)
    if told is None:
        return None
    return _labelled({"type": "observation", "data": told}, name, request_id)


async def _answer(arrived: Any, play: Play, peer: Peer) -> str | None:
    """The reply to one frame, or None where the peer asked to close."""
    request_id: object = None
    try:
        raw = arrived.get("text")
        if raw is None:
            raise wire.BadMessage("binary frame; messages are text")
        message = wire.read_object(raw, play.limits.body_bytes)
        request_id = _request_id(message)
        if message.get("type") == "close":
            return None
        wire.only(message, _FIELDS, "message")
        if message.get("type") == "batch":
            body = await _batch(message.get("data"), play, peer)
        else:
            body = await _handle(message, play, peer.own)
        return wire.dumps(_labelled(body, None, request_id))
    except Exception as error:
        return wire.dumps(_labelled(_failed(error, play), None, request_id))


def _labelled(body: JsonObject, episode: str | None, request_id: object) -> JsonObject:
    """The reply with the names by which its question was sent."""
    if episode is not None:
        body["episode"] = episode
    if request_id is not None:
        body["request_id"] = request_id
    return body


def _failed(error: Exception, play: Play) -> JsonObject:
    """What the peer is told: a mistake of its own in words, whatever a family raises by its id only."""
    if isinstance(error, RoundsError):
        return error_body(error)
    mark = secrets.token_hex(4)
    play.metrics.errors.add("socket")
    log.error("internal error %s", mark, exc_info=error, extra={"error_id": mark})
    return _error("EXECUTION_ERROR", f"internal error {mark}; the server's log says more")


async def _handle(message: JsonObject, play: Play, session: Session) -> JsonObject:
    kind, data = message.get("type"), message.get("data")
    if kind == "mcp":
        return {"type": "mcp", "data": answer_mcp(data)}
    if data is not None and not isinstance(data, dict):
        raise wire.BadMessage(f"data must be an object, not {wire.shown(data)}")
    if kind == "step":
        if data is None:
            raise wire.BadMessage("step needs data: the action")
        return {"type": "observation", "data": await play.step(session, data)}
    if kind == "reset":
        wanted = wire.read_begin(play.family, data or {})
        return {"type": "observation", "data": await play.reset(session, wanted)}
    if kind == "state":
        return {"type": "state", "data": await play.state(session)}
    raise Unknown(
        f"no message type {wire.shown(kind)}; types: reset, step, state, batch, mcp, close"
    )


# -- many episodes in one frame ---------------------------------------------------------------


async def _batch(data: object, play: Play, peer: Peer) -> JsonObject:
    """Every message answered in its place: a mistake in one is told there and hinders no other.

    An episode's messages keep their order. Those of several episodes that have to wait do so abreast,
    until a message that is neither reset nor step: that one comes after all before it.
    """
    given = data.get("messages") if isinstance(data, dict) else None
    most = play.limits.batch
    if not isinstance(given, list) or not 1 <= len(given) <= most:
        raise wire.BadMessage(f"batch needs data.messages, a list of 1 to {most} messages")
    replies: list[JsonObject] = [{}] * len(given)
    waiting: dict[object, list[int]] = {}  # places, by episode

    async def in_order(places: Sequence[int]) -> None:
        for place in places:
            replies[place] = await _one(given[place], play, peer)

    async def all_that_wait() -> None:
        queues = list(waiting.values())
        for start in range(0, len(queues), ABREAST):
            await asyncio.gather(*map(in_order, queues[start : start + ABREAST]))
        waiting.clear()

    share = Share()
    for place, one in enumerate(given):
        await share.pause()
        kind, name = _address(one)
        told = None if name in waiting else _at_once(one, _BATCHED, play, peer)
        if told is not None:
            replies[place] = told
        elif kind in ("reset", "step"):
            waiting.setdefault(name, []).append(place)
        else:
            await all_that_wait()
            replies[place] = await _one(one, play, peer)
    await all_that_wait()
    return {"type": "batch", "data": {"replies": replies}}


def _address(message: object) -> tuple[str | None, str | None]:
    """What kind of message it says it is, and for which episode; None for what is no text."""
    named = message if isinstance(message, dict) else {}
    kind, name = named.get("type"), named.get("episode")
    return kind if isinstance(kind, str) else None, name if isinstance(name, str) else None


async def _one(message: object, play: Play, peer: Peer) -> JsonObject:
    name: str | None = None
    request_id: object = None
    try:
        if not isinstance(message, dict):
            raise wire.BadMessage(f"a message is a JSON object, not {wire.shown(message)}")
        wire.only(message, _BATCHED, "message")
        request_id = _request_id(message)
        name = wire.text(message, "episode")
        if message.get("type") == "close":
            body = _leave(name, play, peer)
        else:
            body = await _seated(name, message, play, peer)
    except Exception as error:  # the same boundary, for one message of many
        body = _failed(error, play)
    return _labelled(body, name, request_id)


async def _seated(name: str | None, message: JsonObject, play: Play, peer: Peer) -> JsonObject:
    """The reply of the episode of that name; one that never began keeps no seat."""
    seat = _seat(name, message.get("type"), play, peer)
    try:
        return await _handle(message, play, seat)
    finally:
        if name is not None and seat.episode is None:
            _leave(name, play, peer)


def _seat(name: str | None, kind: object, play: Play, peer: Peer) -> Session:
    """The peer's episode of that name; a reset takes a seat for a new one. Raises Full or NoEpisode."""
    if name is None:
        return peer.own
    if name not in peer.seats:
        if kind != "reset":
            raise NoEpisode(f"no episode {name[:60]!r} on this socket; reset begins one")
        peer.seats[name] = play.table.open(play.family.name, "ws")
    return peer.seats[name]


def _leave(name: str | None, play: Play, peer: Peer) -> JsonObject:
    if name is None or name not in peer.seats:
        raise NoEpisode(f"no episode {wire.shown(name)} on this socket to close")
    play.table.close(peer.seats.pop(name))
    return {"type": "closed", "data": {}}


# -- errors and endings -----------------------------------------------------------------------


def _request_id(message: JsonObject) -> object:
    """The id to echo, or None. Raises BadMessage on one that is neither text nor a whole number."""
    given = message.get("request_id")
    if given is None or (isinstance(given, int) and not isinstance(given, bool)):
        return given
    return wire.text(message, "request_id")


def error_body(error: RoundsError) -> JsonObject:
    """OpenEnv's error message; `kind` names our exception so that a client can raise it again."""
    code = "UNKNOWN_TYPE" if isinstance(error, Unknown) else _CODES.get(type(error))
    return _error(code or "VALIDATION_ERROR", str(error), kind=type(error).__name__)


def _error(code: str, message: str, **more: str) -> JsonObject:
    return {"type": "error", "data": {"message": message, "code": code, **more}}


async def _refuse(socket: WebSocket, no: RoundsError) -> None:
    """Say why there is no seat, and leave the peer the time to read it before closing."""
    try:
        await socket.send_text(wire.dumps(error_body(no)))
        async with asyncio.timeout(REFUSED_WAIT_S):
            await socket.receive()
    except (TimeoutError, WebSocketDisconnect, OSError):
        log.debug("refused peer left without asking")
    reason = (
        "CAPACITY_REACHED: every session is taken" if isinstance(no, Full) else "SERVER_STOPPING"
    )
    await _close(socket, TRY_AGAIN_LATER, reason)


async def _close(socket: WebSocket, code: int, reason: str) -> None:
    if socket.client_state is WebSocketState.DISCONNECTED:
        return
    try:
        async with asyncio.timeout(5.0):
            await socket.close(code, reason)
    except (TimeoutError, RuntimeError, WebSocketDisconnect, OSError):
        log.debug("peer gone before the close")
