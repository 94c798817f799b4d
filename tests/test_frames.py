"""The quick way through a socket changes nothing but the time: same replies, same order, same endings."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from math import nan
from typing import Any
from urllib.parse import urlsplit

import pytest
from fakes import LineEpisode, NumberLine
from hypothesis import given
from hypothesis import strategies as st
from servers import ask, dial, serving_here
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame, Opcode
from websockets.sync.client import ClientConnection

from env_server import app as server
from env_server import frames, logs
from env_server.contract import Action, Refusal, Step
from env_server.frames import Seams, Socket, text_frame, whole_text

LEFT = {"type": "step", "data": {"action_type": "left"}}
STATE = {"type": "state"}


def client_frame(payload: bytes, opcode: int = Opcode.TEXT, fin: bool = True) -> bytes:
    return Frame(Opcode(opcode), payload, fin).serialize(mask=True)


# -- bytes ------------------------------------------------------------------------------------


@given(st.text(max_size=300), st.integers(-6, 6))
def test_a_whole_frame_is_read_as_the_library_reads_it(text: str, cut: int) -> None:
    chunk = client_frame(text.encode())
    assert whole_text(chunk) == text
    changed = chunk[:cut] if cut < 0 else chunk + b"\x81\x80\0\0\0\0"[:cut]
    assert whole_text(changed) == (text if cut == 0 else None)


@pytest.mark.parametrize(
    "chunk",
    [
        client_frame(b"x", fin=False),
        client_frame(b"x", Opcode.BINARY),
        client_frame(b"", Opcode.PING),
        client_frame(b"\xff\xfe"),
        client_frame(b"x" * 70_000),
        Frame(Opcode.TEXT, b"12345678").serialize(mask=False),
        b"\xc1" + client_frame(b"compressed")[1:],
        b"\x81\xff" + bytes(8) + b"mask",
        b"",
    ],
    # masks are drawn anew by every process: bytes make no names
    ids=(
        "part",
        "binary",
        "ping",
        "not_utf8",
        "long",
        "unmasked",
        "compressed",
        "endless",
        "empty",
    ),
)
def test_whatever_is_no_plain_text_frame_is_left_to_the_library(chunk: bytes) -> None:
    assert whole_text(chunk) is None


@given(st.integers(0, 70_000))
def test_a_frame_is_written_as_the_library_writes_it(size: int) -> None:
    payload = b"x" * size
    assert text_frame(payload) == Frame(Opcode.TEXT, payload).serialize(mask=False)


KINDS = st.sampled_from([Opcode.TEXT, Opcode.BINARY, Opcode.PING, Opcode.PONG])


@given(st.lists(st.tuples(KINDS, st.sampled_from([0, 1, 125, 126, 4000, 66_000]))), st.data())
def test_seams_are_found_wherever_the_stream_is_cut(
    sent: list[tuple[Opcode, int]], data: st.DataObject
) -> None:
    stream, ends = b"", {0}
    for kind, size in sent:
        control = kind in (Opcode.PING, Opcode.PONG)
        stream += client_frame(b"x" * (min(size, 125) if control else size), kind)
        ends.add(len(stream))
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=6))
    seams, at = Seams(), 0
    for cut in (*sorted(cuts), len(stream)):
        seams.follow(stream[at:cut])
        at = cut
        assert seams.lost or seams.between == (cut in ends)


def test_a_message_in_parts_is_never_taken_for_a_seam() -> None:
    seams = Seams()
    seams.follow(client_frame(b"{", fin=False))
    assert not seams.between
    seams.follow(client_frame(b"}", Opcode.CONT))
    assert not seams.between


# -- on a server ------------------------------------------------------------------------------


@dataclass(slots=True)
class Odd(LineEpisode):
    """Right shows a number that JSON cannot hold, ask_side breaks."""

    def step(self, action: Action | Refusal) -> Step:
        form = getattr(action, "action_type", None)
        if form == "ask_side":
            raise KeyError("our insides")
        step = LineEpisode.step(self, action)
        return Step(step.observation, nan, {}, False) if form == "right" else step


class OddLine(NumberLine):
    def begin(self, *wanted: Any, **named: Any) -> Any:
        episode = super().begin(*wanted, **named)
        fields = ("task", "seed", "split", "place", "mark", "length", "tells")
        return Odd(**{name: getattr(episode, name) for name in fields})


@pytest.fixture(scope="module", params=[Socket, WebSocketsSansIOProtocol])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The same server by our protocol, and by the one it is made of, which offers no prompt."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("env_server.pace.PROOFS", 0)  # every step is at once one for the loop
        app = server.create_app("odd", families=[OddLine(name="odd")])
        with serving_here(app, ws=request.param) as url:
            yield url


@pytest.fixture
def ws(url: str) -> Iterator[ClientConnection]:
    with dial(url, ping_interval=None) as ws:
        ask(ws, {"type": "reset"})
        yield ws


def test_replies_come_in_order_whichever_way_they_go(ws: ClientConnection) -> None:
    batch = {"type": "batch", "data": {"messages": [STATE] * 50}}
    for at, message in enumerate([LEFT, STATE, batch, LEFT, LEFT, STATE, batch, LEFT] * 5):
        ws.send(json.dumps({**message, "request_id": at}))
    assert [json.loads(ws.recv(timeout=10))["request_id"] for _ in range(40)] == list(range(40))


def test_steps_are_counted_and_labelled_alike(ws: ClientConnection) -> None:
    reply = ask(ws, {**LEFT, "request_id": "mine"})
    assert reply["request_id"] == "mine" and reply["data"]["observation"]["steps_left"] >= 0
    assert list(reply) == ["type", "data", "request_id"]
    assert ask(ws, STATE)["data"]["step_count"] == 1


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"type": "step"}, "VALIDATION_ERROR"),
        ({"type": "step", "data": 7}, "VALIDATION_ERROR"),
        ({**LEFT, "request_id": 1.5}, "VALIDATION_ERROR"),
        ({**LEFT, "episode": "a"}, "VALIDATION_ERROR"),
        ({**LEFT, "more": 1}, "VALIDATION_ERROR"),
        ({"type": "step", "data": {"refusal": {"kind": "x"}}}, "VALIDATION_ERROR"),
        ({"type": "step", "data": {"action_type": "ask_side"}}, "EXECUTION_ERROR"),
        ({"type": "step", "data": {"action_type": "right"}}, "EXECUTION_ERROR"),
        ("no JSON", "VALIDATION_ERROR"),
        (b"binary", "VALIDATION_ERROR"),
    ],
)
def test_mistakes_are_told_alike_and_the_session_lives(
    ws: ClientConnection, message: Any, code: str
) -> None:
    told = ask(ws, message)
    assert told["type"] == "error" and told["data"]["code"] == code
    assert "insides" not in str(told)
    assert ask(ws, LEFT)["type"] == "observation"


def test_parts_pings_and_frames_that_come_together_are_all_understood(url: str) -> None:
    step, state = (json.dumps(message).encode() for message in (LEFT, STATE))
    with Raw(url) as peer:
        peer.talk(client_frame(b'{"type":"reset"}'))
        assert peer.heard("type") == ["observation"]
        peer.talk(client_frame(step) + client_frame(step) + client_frame(state))
        assert peer.heard("type", 3) == ["observation", "observation", "state"]
        cut = client_frame(step)
        peer.talk(cut[:9])
        peer.talk(cut[9:])
        peer.talk(client_frame(b"late", Opcode.PING))
        peer.talk(client_frame(step))
        assert peer.heard("type", 2) == ["observation"] * 2
        peer.talk(cut[:1])  # a header in two
        peer.talk(cut[1:])
        peer.talk(client_frame(step[:10], fin=False))
        peer.talk(client_frame(step[10:], Opcode.CONT))
        peer.talk(client_frame(state))
        assert peer.heard("type", 3) == ["observation", "observation", "state"]


@pytest.mark.parametrize(
    ("chunk", "code"),
    [
        (client_frame(b"\xff"), 1007),
        (Frame(Opcode.TEXT, b"not masked").serialize(mask=False), 1002),
        (client_frame(b"{", fin=False) + client_frame(b"}"), 1002),
    ],
    ids=("not_utf8", "unmasked", "part_and_whole"),
)
def test_a_peer_that_breaks_the_protocol_is_told_by_the_code(
    url: str, chunk: bytes, code: int
) -> None:
    with Raw(url) as peer:
        peer.talk(client_frame(b'{"type":"reset"}'))
        peer.heard("type")
        peer.talk(chunk)
        assert peer.closed() == code


def test_a_frame_in_the_middle_of_a_message_in_parts_is_no_step(url: str) -> None:
    """Each in a chunk of its own: the second alone would be a plain frame."""
    with Raw(url) as peer:
        peer.talk(client_frame(b'{"type":"reset"}'))
        peer.heard("type")
        peer.talk(client_frame(b"{", fin=False))
        peer.talk(client_frame(json.dumps(LEFT).encode()))
        assert peer.closed() == 1002


def test_an_error_is_logged_with_the_ids_of_its_session() -> None:
    app = server.create_app("odd", families=[OddLine(name="odd")])
    seen: list[Any] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record)

    keep = Keep()
    keep.addFilter(logs.WithIds())
    log = logging.getLogger("rounds.socket")
    log.addHandler(keep)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("env_server.pace.PROOFS", 0)
            with serving_here(app) as url, dial(url) as ws:
                ask(ws, {"type": "reset"})
                told = ask(ws, {"type": "step", "data": {"action_type": "ask_side"}})
    finally:
        log.removeHandler(keep)
    record = next(r for r in seen if getattr(r, "error_id", None))
    assert record.error_id in told["data"]["message"] and record.exc_info
    assert len(record.session_id) == 16 and record.request_id


def test_the_quick_way_is_really_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps by it, everything else not: else the tests above would compare one way with itself."""
    monkeypatch.setattr("env_server.pace.PROOFS", 0)
    taken = []
    written = frames.text_frame
    monkeypatch.setattr(frames, "text_frame", lambda body: taken.append(body) or written(body))
    app = server.create_app("odd", families=[OddLine(name="odd")])
    with serving_here(app) as url, dial(url) as ws:
        for message in ({"type": "reset"}, LEFT, STATE, LEFT):
            ask(ws, message)
    assert len(taken) == 2


# -- a peer that sends bytes as it likes ------------------------------------------------------


class Raw:
    """A socket after its handshake, bytes in and out."""

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        self.socket = socket.create_connection((place.hostname, place.port), 10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = (
            *("GET /ws HTTP/1.1", f"Host: {place.netloc}", "Upgrade: websocket"),
            *("Connection: Upgrade", f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13"),
        )
        self.socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        self.read = b""
        while b"\r\n\r\n" not in self.read:
            self._more()
        self.read = self.read.partition(b"\r\n\r\n")[2]

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def talk(self, chunk: bytes) -> None:
        self.socket.sendall(chunk)
        asyncio.run(asyncio.sleep(0.05))  # so that the next is a chunk of its own

    def _more(self) -> None:
        got = self.socket.recv(2**16)
        assert got, "the server hung up"
        self.read += got

    def _frame(self) -> tuple[int, bytes]:
        while len(self.read) < 10 and not self._whole():
            self._more()
        while not self._whole():
            self._more()
        size, at = self._size()
        opcode, payload = self.read[0] & 15, self.read[at : at + size]
        self.read = self.read[at + size :]
        return opcode, payload

    def _size(self) -> tuple[int, int]:
        size = self.read[1]
        return (int.from_bytes(self.read[2:4], "big"), 4) if size == 126 else (size, 2)

    def _whole(self) -> bool:
        return len(self.read) >= 4 and len(self.read) >= sum(self._size())

    def heard(self, key: str, n: int = 1) -> list[Any]:
        told = []
        while len(told) < n:
            opcode, payload = self._frame()
            if opcode == Opcode.TEXT:
                told.append(json.loads(payload)[key])
        return told

    def closed(self) -> int:
        opcode, payload = self._frame()
        assert opcode == Opcode.CLOSE
        return int.from_bytes(payload[:2], "big")
