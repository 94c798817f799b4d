"""One socket to a server, the places of the episodes that live on it, and what may go wrong with it.

Knows messages; nothing of episodes or pools. Every frame has a number, and a reply is whatever names it:
one that nobody waits for any more answers nothing, and one that nobody asked for closes the socket.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, Final, NoReturn

from env_server.contract import JsonObject, RoundsError

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

    from env_server.upstream import Upstream

FRAME_CHARS: Final = 48 * 1024  # of messages in one frame; servers read 64 kB unless told otherwise
NO_SEAT: Final = ("CAPACITY_REACHED", "SERVER_STOPPING")
FRAME_MESSAGES: Final = 256  # the most that a server answers at once


class RemoteError(RoundsError):
    """Something went wrong on the way to or in the server; never a matter of the policy's."""


class ServerError(RemoteError):
    """The server cannot be reached, or said that it cannot do this."""


class CapacityError(ServerError):
    """No seat on the server, or none left in this client's pool."""


class EpisodeLost(RemoteError):
    """The episode cannot go on: drop it, or `replay()` it. Its score means nothing."""


class Deadline(EpisodeLost):
    """No answer in time; a late one answers nothing."""


class Refused(Exception):
    """The server's error message: the request was read, and turned down.

    whole: it speaks of a frame of many messages, not of one of them.
    """

    def __init__(self, data: Mapping[str, Any], whole: bool = False) -> None:
        self.whole = whole
        self.code = str(data.get("code", "UNKNOWN"))
        self.kind = str(data.get("kind", ""))
        super().__init__(str(data.get("message", "no reason given")))


@dataclass(frozen=True, slots=True)
class RemoteObservation:
    """An observation as it arrived."""

    body: JsonObject

    def to_json(self) -> JsonObject:
        return self.body


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where one episode lives: a line, and its name there. None is the socket's own episode."""

    line: Line
    name: str | None

    @property
    def home(self) -> Upstream:
        return self.line.home


@dataclass(frozen=True, slots=True)
class Ask:
    """One message to one episode."""

    kind: str
    name: str | None = None
    data: JsonObject | None = None

    def spelled(self) -> str:
        """The message, open at its end so that more may be said."""
        said = f'{{"type":"{self.kind}"'
        if self.name is not None:
            said += f',"episode":"{self.name}"'
        return said if self.data is None else f'{said},"data":{json.dumps(self.data)}'


Answer = JsonObject | Refused
Frame = tuple[list[str], list[Ask]]  # what is said, and to whom


class Line:
    """One socket of the server `home`, and who lives on it; used on the client's loop alone."""

    def __init__(self, socket: ClientConnection, home: Upstream) -> None:
        self._socket = socket
        self.home = home
        self._numbers = count(1)
        self._names = count(1)
        self._waiting: dict[int, asyncio.Future[JsonObject]] = {}
        self._given_up: set[int] = set()  # frames whose answer is still to come, and is nobody's
        self._living: set[Place] = set()
        self._own: Place | None = None  # who plays the socket's own episode
        self._left: list[str] = []  # names without an episode, whose seats the server still holds
        self._closing: list[str] = []  # the same, but their seats are promised to others
        self._ended: ServerError | None = None
        self._verdict: JsonObject | None = None  # an error about no frame: there is no seat here
        self.used = False
        self._listening = asyncio.create_task(self._listen())

    # -- places --------------------------------------------------------------------------------

    @property
    def living(self) -> int:
        return len(self._living)

    @property
    def seats(self) -> int:
        """What this socket takes of the server's capacity."""
        named = len(self._living) - (self._own is not None)
        return 1 + named + len(self._left)

    @property
    def sound(self) -> bool:
        """Whether it may be lent: it is open, has a seat, and owes no answer that was given up."""
        return self.open and not self._given_up and self._verdict is None

    @property
    def open(self) -> bool:
        closing = self._socket.close_code is not None or self._socket.transport.is_closing()
        return self._ended is None and not closing

    def take(self, wanted: int) -> list[Place]:
        """Places for so many episodes to begin; the first frame they send frees what was left."""
        self._closing += self._left
        self._left.clear()
        return [self._taken() for _ in range(wanted)]

    def _taken(self) -> Place:
        place = Place(self, None if self._own is None else str(next(self._names)))
        if place.name is None:
            self._own = place
        self._living.add(place)
        return place

    def leave(self, place: Place) -> None:
        """The episode is over, dropped or lost; the server hears of it with the next frame."""
        if place not in self._living:
            return
        self._living.discard(place)
        if place.name is None:
            self._own = None
        else:
            self._left.append(place.name)

    # -- asking --------------------------------------------------------------------------------

    async def ask(self, asks: Sequence[Ask], deadline_s: float) -> list[Answer]:
        """The reply to each message, in its place; Refused for one that was turned down.

        All go in one frame, or in as few as hold them, one after the other: where one fails, what is
        left is never said. Waits for its turn first: a server is sent so many frames at once and no
        more. Raises TimeoutError, or ServerError and the line is closed.
        """
        self.used = True
        answers: list[Answer] = []
        for frame in _frames([*self._goodbyes(), *asks]):
            answers += await self._in_turn(frame, deadline_s)
        return answers[-len(asks) :]

    def _goodbyes(self) -> list[Ask]:
        names, self._closing, self._left = [*self._closing, *self._left], [], []
        return [Ask("close", name) for name in names]

    async def _in_turn(self, frame: Frame, deadline_s: float) -> list[Answer]:
        async with self.home.turns:
            return await self._ask(frame, deadline_s)

    async def _ask(self, frame: Frame, deadline_s: float) -> list[Answer]:
        said, asks = frame
        if len(asks) == 1 and asks[0].name is None:
            return [_answer(await self._exchange(said[0], deadline_s))]
        messages = "},".join(said)
        batch = f'{{"type":"batch","data":{{"messages":[{messages}}}]}}'
        reply = await self._exchange(batch, deadline_s)
        try:
            return _answers(reply, asks)
        except ServerError as error:
            self._end(error)
            raise

    async def _exchange(self, said: str, deadline_s: float) -> JsonObject:
        """The reply to one frame. Given up by whoever asked, it is forgotten when it comes."""
        if self._ended is not None:
            raise self._ended
        if self._verdict is not None:
            return self._verdict
        number = next(self._numbers)
        answer: asyncio.Future[JsonObject] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            async with asyncio.timeout(deadline_s):
                await self._send(f'{said},"request_id":{number}}}')
                return await answer
        finally:
            if self._waiting.pop(number, None) is not None:
                self._given_up.add(number)

    async def _send(self, frame: str) -> None:
        from websockets.exceptions import ConnectionClosed  # loaded when the socket was opened

        try:
            await self._socket.send(frame)
        except (ConnectionClosed, OSError) as error:
            self._end(_closed(error))  # which whoever awaits the answer hears

    # -- hearing -------------------------------------------------------------------------------

    async def _listen(self) -> None:
        from websockets.exceptions import ConnectionClosed

        why: Exception = ServerError("it was closed here")
        try:
            while True:
                self._hear(await self._socket.recv())
        except (ConnectionClosed, OSError, ValueError, RecursionError, ServerError) as error:
            why = error
        finally:
            self._end(why if isinstance(why, ServerError) else _closed(why))

    def _hear(self, frame: str | bytes) -> None:
        """Hand the reply to whoever waits for it. Raises ServerError or ValueError for nonsense."""
        reply = json.loads(frame, parse_constant=_not_finite)
        if not isinstance(reply, dict) or not isinstance(reply.get("data") or {}, dict):
            raise ServerError("the reply is no message of this protocol")
        number = reply.get("request_id")
        if number is None and reply.get("type") == "error":
            self._hear_blame(reply)
        elif type(number) is int and number in self._given_up:
            self._given_up.discard(number)
        elif type(number) is int and number in self._waiting:
            self._settle(self._waiting.pop(number), reply)
        else:
            raise ServerError(f"the reply to another request: {number!r}")

    def _hear_blame(self, error: JsonObject) -> None:
        """An error that names no frame: the oldest could not be read, or there is no seat for any."""
        asked = sorted({*self._waiting, *self._given_up})
        if not asked or Refused(error.get("data") or {}).code in NO_SEAT:
            self._verdict = error
            for answer in self._drained():
                self._settle(answer, error)
        elif asked[0] in self._given_up:
            self._given_up.discard(asked[0])
        else:
            self._settle(self._waiting.pop(asked[0]), error)

    @staticmethod
    def _settle(answer: asyncio.Future[JsonObject], reply: JsonObject) -> None:
        if not answer.done():
            answer.set_result(reply)

    def _end(self, why: ServerError) -> None:
        """Close it, for the first reason there is; who waits hears of it now."""
        self._ended = self._ended or why
        self._socket.transport.abort()
        for answer in self._drained():
            answer.set_exception(self._ended)

    def _drained(self) -> list[asyncio.Future[JsonObject]]:
        waiting, self._waiting = self._waiting, {}
        return [answer for answer in waiting.values() if not answer.done()]

    def abort(self) -> None:
        self._end(ServerError("it was closed here"))
        self._listening.cancel()

    async def close(self) -> None:
        from websockets.exceptions import ConnectionClosed

        try:
            await self._socket.send('{"type":"close"}')
        except ConnectionClosed:
            return
        await self._socket.close()


def _frames(asks: Sequence[Ask]) -> Iterator[Frame]:
    """As few frames as hold the messages; one that is too long for any goes alone."""
    frame: Frame = ([], [])
    chars = 0
    for ask in asks:
        said = ask.spelled()
        if frame[0] and (chars + len(said) > FRAME_CHARS or len(frame[0]) == FRAME_MESSAGES):
            yield frame
            frame, chars = ([], []), 0
        frame[0].append(said)
        frame[1].append(ask)
        chars += len(said)
    yield frame


def _answer(reply: JsonObject) -> Answer:
    body: JsonObject = reply.get("data") or {}
    return Refused(body) if reply.get("type") == "error" else body


def _answers(reply: JsonObject, asks: Sequence[Ask]) -> list[Answer]:
    """What a batch said to each message. Raises ServerError for a reply to another batch."""
    body = reply.get("data") or {}
    if reply.get("type") == "error":
        return [Refused(body, whole=True)] * len(asks)
    replies = body.get("replies")
    if not isinstance(replies, list) or len(replies) != len(asks):
        raise ServerError(f"the reply to {len(asks)} messages has not so many answers")
    return [_answer_to(ask, one) for ask, one in zip(asks, replies, strict=True)]


def _answer_to(ask: Ask, reply: Any) -> Answer:
    if not isinstance(reply, dict) or not isinstance(reply.get("data") or {}, dict):
        raise ServerError("an answer in the batch is no message of this protocol")
    if reply.get("episode") != ask.name:
        raise ServerError(f"the answer to another episode: {reply.get('episode')!r}")
    return _answer(reply)


def _closed(error: Exception) -> ServerError:
    return ServerError(f"{type(error).__name__}: {error}")


def _not_finite(name: str) -> NoReturn:
    raise ServerError(f"the reply holds {name}, which is no number")
