"""Real servers for tests: one in a process of its own, or one in a thread beside the test."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as open_socket

from env_server.frames import Socket

ROOT = Path(__file__).resolve().parents[1]


def start(*flags: str, port: int = 0) -> tuple[subprocess.Popen[str], str]:
    """A server process and its URL, once it listens."""
    command = [sys.executable, "-m", "env_server.app", "--port", str(port), *flags]
    child = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    greeting = child.stdout.readline()
    if "listens on" not in greeting:
        _, said = child.communicate(timeout=10)
        raise RuntimeError(f"the server did not start: {greeting}{said}")
    return child, greeting.rsplit(" ", 1)[1].strip()


def stop(child: subprocess.Popen[str]) -> None:
    if child.poll() is None:
        child.terminate()
    child.communicate(timeout=10)


@contextmanager
def serving(*flags: str) -> Iterator[str]:
    """The URL of a server in a process of its own."""
    child, url = start(*flags)
    try:
        yield url
    finally:
        stop(child)


@contextmanager
def serving_here(app: Any, **settings: Any) -> Iterator[str]:
    """The URL of `app` served by a thread of this process, with the sockets it has in its own."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    settings = {"ws": Socket, "ws_per_message_deflate": False, "log_level": "error", **settings}
    server = uvicorn.Server(uvicorn.Config(app, **settings))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


def until(true: Any, within_s: float) -> bool:
    """Whether `true()` comes to hold within `within_s`."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.01)
    return bool(true())


def dial(url: str, path: str = "/ws", **settings: Any) -> ClientConnection:
    """A socket to the server at `url`."""
    return open_socket(f"ws{url[4:]}{path}", proxy=None, **settings)


def ask(ws: ClientConnection, message: object) -> dict[str, Any]:
    """The reply to one message; text and bytes are sent as they are."""
    ws.send(message if isinstance(message, (str, bytes)) else json.dumps(message))
    reply: dict[str, Any] = json.loads(ws.recv(timeout=20))
    return reply
