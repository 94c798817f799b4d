"""A chat server that misbehaves on purpose: what each request meets is written down beforehand.

Real HTTP on the loopback; a fault is a function that answers a handler in its own way. Once the
script is over, or where it says None, the request is answered well.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FINISH = '{"action_type":"finish_review"}'

Fault = Callable[["Handler"], None]


@dataclass
class Hostile:
    """A server's script, and what it was asked."""

    faults: list[Fault | None] = field(default_factory=list)  # one a request, in order
    always: Fault | None = None  # meets every request that the script does not
    brain: Callable[[dict[str, Any]], str] = lambda body: FINISH
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    patience: threading.Event = field(default_factory=threading.Event)  # ends every hang
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next_fault(self, body: dict[str, Any], key: str | None) -> Fault | None:
        with self.lock:
            self.bodies.append(body)
            self.keys.append(key)
            return self.faults.pop(0) if self.faults else self.always


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any
    body: dict[str, Any]

    def do_POST(self) -> None:
        self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        hostile: Hostile = self.server.hostile
        fault = hostile.next_fault(self.body, self.headers.get("Authorization"))
        (fault or well)(self)

    def reply(self, status: int, body: object, **headers: str) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: object) -> None:
        return None


def completion(content: str | None, finish: str = "stop", **message: Any) -> dict[str, Any]:
    said = {"role": "assistant", "content": content, **message}
    return {
        "object": "chat.completion",
        "choices": [{"index": 0, "finish_reason": finish, "message": said}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
    }


def well(handler: Handler) -> None:
    handler.reply(200, completion(handler.server.hostile.brain(handler.body)))


def says(content: str | None, finish: str = "stop", **message: Any) -> Fault:
    return lambda handler: handler.reply(200, completion(content, finish, **message))


def status(code: int, message: str = "no", kind: str = "error", **headers: str) -> Fault:
    error = {"error": {"message": message, "code": kind}}
    return lambda handler: handler.reply(code, error, **headers)


def garbage(handler: Handler) -> None:
    handler.reply(200, b"<html>bad gateway")


def no_choices(handler: Handler) -> None:
    handler.reply(200, {"object": "chat.completion", "choices": []})


def hang(handler: Handler) -> None:
    handler.server.hostile.patience.wait(30)
    handler.close_connection = True


def drop(handler: Handler) -> None:
    handler.close_connection = True
    handler.connection.close()


def cut_short(handler: Handler) -> None:
    """Promises more bytes than it sends."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.wfile.flush()
    drop(handler)


def turns_down(field: str, message: str = "") -> Fault:
    """400 where the request has the field, else a good answer."""

    def fault(handler: Handler) -> None:
        if field in handler.body:
            status(400, message or f"Unsupported parameter: {field}")(handler)
        else:
            well(handler)

    return fault


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, address: Any) -> None:
        return None  # a client that went away is what some tests are about


@contextmanager
def hostile(
    faults: Sequence[Fault | None] = (), always: Fault | None = None, **more: Any
) -> Iterator[Hostile]:
    """A server on a free port of the loopback, playing the script."""
    script = Hostile(list(faults), always, **more)
    server = _Server(("127.0.0.1", 0), Handler)
    server.hostile = script  # type: ignore[attr-defined]
    script.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield script
    finally:
        script.patience.set()
        server.shutdown()
        server.server_close()
        thread.join()
