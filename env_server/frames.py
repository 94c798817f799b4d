"""The bytes under a socket: uvicorn's protocol, quicker where a frame is plain and the door is free.

Knows frames (RFC 6455) and uvicorn; nothing of messages. A chunk that is exactly one whole text frame
is shown to the door as it arrives, and what the door replies is written at once: no parser, no queue, no
turn of a task. Everything else, and everything odd, goes the way of the `websockets` library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from env_server.socket_door import ABORT, PROMPT, Prompt

try:
    from websockets.speedups import apply_mask
except ImportError:  # where no compiled wheel was to be had
    from websockets.utils import apply_mask

AHEAD: Final = 4  # frames a peer may be ahead before reading pauses
PLAIN: Final = 2048  # bytes of a chunk worth a glance; a longer one is no step of one episode
_TEXT: Final = 0x81  # FIN and the opcode of text: a message in one frame
_CONTROL: Final = 0x08  # the bit of the opcodes of ping, pong and close
_FIN, _MASKED, _LENGTH = 0x80, 0x80, 0x7F


def whole_text(chunk: bytes) -> str | None:
    """The text of `chunk` if it is one whole masked frame and nothing else; None for all others."""
    if len(chunk) < 6 or chunk[0] != _TEXT:
        return None
    size, at = chunk[1] - _MASKED, 2
    if size == 126:
        size, at = int.from_bytes(chunk[2:4], "big"), 4
    if not 0 <= size == len(chunk) - at - 4:  # 127, a length of eight bytes, is never as small
        return None
    try:
        return apply_mask(chunk[at + 4 :], chunk[at : at + 4]).decode()
    except UnicodeDecodeError:
        return None


def text_frame(payload: bytes) -> bytes:
    """`payload` as a server sends it: one frame, not masked."""
    size = len(payload)
    if size < 126:
        return bytes((_TEXT, size)) + payload
    if size < 1 << 16:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload


@dataclass(slots=True)
class Seams:
    """Whether a stream of frames stands between two messages, told from the headers of frames alone."""

    owed: int = 0  # bytes of the present frame still to come
    lost: bool = (
        False  # a header was cut in two, or a message is in parts: from then on nobody knows
    )

    @property
    def between(self) -> bool:
        return not self.owed and not self.lost

    def follow(self, chunk: bytes) -> None:
        """Pass over what was read."""
        at, end = self.owed, len(chunk)
        while at < end and not self.lost:
            at += self._size(chunk[at : at + 14])
        self.owed = at - end

    def _size(self, head: bytes) -> int:
        """Bytes of the frame that begins with `head`, and whether the way is lost with it."""
        self.lost = len(head) < 2 or not (head[0] & _FIN or head[0] & _CONTROL)
        if self.lost:
            return 0
        size, wide = head[1] & _LENGTH, 0
        if size > 125:
            wide = 2 if size == 126 else 8
            self.lost = len(head) < 2 + wide
            size = int.from_bytes(head[2 : 2 + wide], "big")
        return 2 + wide + (4 if head[1] & _MASKED else 0) + size


class Socket(WebSocketsSansIOProtocol):
    """uvicorn's socket, and two things the door may ask of it.

    PROMPT: to be shown texts as they arrive. ABORT: to be rid of a peer that reads nothing, not even
    a goodbye.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._seams = Seams()
        self._greeted = False  # the request that asks for a socket has been read
        self._prompt: Prompt | None = None

    def data_received(self, data: bytes) -> None:
        reply = self._reply(data) if self._prompt is not None and len(data) <= PLAIN else None
        if reply is not None:
            self.transport.write(text_frame(reply))
            return
        if self._greeted:
            self._seams.follow(data)
            self._seams.lost |= not self.handshake_complete  # a peer in such a hurry waits its turn
        self._greeted = True
        super().data_received(data)

    def _reply(self, data: bytes) -> bytes | None:
        """What the door says at once; None where there is an order to keep, or it has to wait."""
        free = self._seams.between and self.queue.empty() and self.writable.is_set()
        if self._prompt is None or not free or self.close_sent or self.transport.is_closing():
            return None
        text = whole_text(data)
        return None if text is None else self._prompt(text)

    def send_receive_event_to_app(self) -> None:
        # uvicorn stops reading at every frame and starts again: two system calls for each
        if self.read_paused or self.queue.qsize() >= AHEAD:
            super().send_receive_event_to_app()
            return
        self.read_paused = True
        try:
            super().send_receive_event_to_app()
        finally:
            self.read_paused = False

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        scope: Any = getattr(self, "scope", None)  # none where the handshake failed
        if scope is not None:
            scope["extensions"][ABORT] = self.transport.abort
            scope["extensions"][PROMPT] = self._offer

    def _offer(self, prompt: Prompt | None) -> None:
        self._prompt = prompt
