"""One socket to a server, asked one thing at a time, and what may go wrong with it.

Knows messages; nothing of episodes or pools. A socket that was not answered in time, or not in this
protocol, is closed, so that a late reply can never answer another request.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from env_server.contract import JsonObject, RoundsError

if TYPE_CHECKING:
    from env_server.upstream import Upstream


class RemoteError(RoundsError):
    """Something went wrong on the way to or in the server; never a matter of the policy's."""


class ServerError(RemoteError):
    """The server cannot be reached, or said that it cannot do this."""


class CapacityError(ServerError):
    """No seat on the server, or none left in this client's pool."""


class EpisodeLost(RemoteError):
    """The episode cannot go on: drop it, or `replay()` it. Its score means nothing."""


class Deadline(EpisodeLost):
    """No answer in time; the socket was closed, so that a late one answers nothing."""


class Refused(Exception):
    """The server's error message: the request was read, and turned down."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.code = str(data.get("code", "UNKNOWN"))
        self.kind = str(data.get("kind", ""))
        super().__init__(str(data.get("message", "no reason given")))


@dataclass(frozen=True, slots=True)
class RemoteObservation:
    """An observation as it arrived."""

    body: JsonObject

    def to_json(self) -> JsonObject:
        return self.body


class Line:
    """One socket of the server `home`, asked one thing at a time."""

    def __init__(self, socket: ClientConnection, home: Upstream) -> None:
        self._socket = socket
        self._asked = 0
        self.home = home

    async def ask(self, kind: str, data: JsonObject | None, deadline_s: float) -> JsonObject:
        """The reply to one message. Raises Refused; any other exception leaves the line closed.

        Waits for its turn first: a server is asked so many things at once and no more.
        """
        async with self.home.turns:
            return await self._ask(kind, data, deadline_s)

    async def _ask(self, kind: str, data: JsonObject | None, deadline_s: float) -> JsonObject:
        self._asked += 1
        message = {"type": kind, "request_id": self._asked}
        if data is not None:
            message["data"] = data
        try:
            async with asyncio.timeout(deadline_s):
                await self._socket.send(json.dumps(message))
                reply = json.loads(await self._socket.recv(), parse_constant=_not_finite)
            return self._read(reply)
        except Refused:
            raise
        except BaseException:
            self.abort()
            raise

    def _read(self, reply: Any) -> JsonObject:
        """The body of the reply to what was asked last. Raises Refused, or ServerError for nonsense."""
        if not isinstance(reply, dict) or not isinstance(reply.get("data") or {}, dict):
            raise ServerError("the reply is no message of this protocol")
        body: JsonObject = reply.get("data") or {}
        answers = reply.get("request_id")
        if reply.get("type") == "error" and answers in (None, self._asked):
            raise Refused(body)
        if answers != self._asked:
            raise ServerError(f"the reply to another request: {answers!r}")
        return body

    @property
    def used(self) -> bool:
        return self._asked > 0

    @property
    def open(self) -> bool:
        return self._socket.close_code is None and not self._socket.transport.is_closing()

    def abort(self) -> None:
        self._socket.transport.abort()

    async def close(self) -> None:
        try:
            await self._socket.send('{"type":"close"}')
        except ConnectionClosed:
            return
        await self._socket.close()


def _not_finite(name: str) -> NoReturn:
    raise ServerError(f"the reply holds {name}, which is no number")
