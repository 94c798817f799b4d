"""What real processes do to a server: killed clients, half-open and deaf sockets, a taken port, SIGTERM."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from servers import ROOT, ask, dial, start, stop, until
from websockets.exceptions import ConnectionClosed

pytestmark = pytest.mark.slow

FINISH = {"action_type": "finish_review"}

# a client process that holds an episode until it is killed
CLIENT = """
import sys, time
from env_server.client import connect
episode = connect(sys.argv[1]).begin("easy_screening", 1, "train")
print("playing", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[subprocess.Popen[str], str]]:
    flags = ("--send-s", "1", "--ping-s", "0.5", "--pong-s", "1", "--idle-s", "30")
    child, url = start("--capacity", "8", "--log-format", "json", "--log-level", "info", *flags)
    yield child, url
    stop(child)


@pytest.fixture
def url(server: tuple[subprocess.Popen[str], str]) -> Iterator[str]:
    child, url = server
    yield url
    assert child.poll() is None
    assert until(lambda: taken(url) == 0, 5), "a slot leaked"


def taken(url: str) -> int:
    seats: int = httpx.get(f"{url}/v1/capacity").json()["taken"]
    return seats


def client(url: str) -> subprocess.Popen[str]:
    """A client process in the middle of an episode."""
    child = subprocess.Popen(
        [sys.executable, "-c", CLIENT, url], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline().strip() == "playing"
    return child


def handshake(url: str) -> socket.socket:
    """A bare socket past the handshake, with a small window: it never answers a ping."""
    bare = socket.socket()
    bare.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    where = urlsplit(url)
    bare.connect((where.hostname, where.port))
    key = b64encode(os.urandom(16)).decode()
    bare.sendall(
        f"GET /ws HTTP/1.1\r\nHost: {where.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    assert b"101" in bare.recv(4096)
    return bare


def frame(message: Any) -> bytes:
    """One masked text frame."""
    body = json.dumps(message).encode()
    size = bytes([0x80 | len(body)]) if len(body) < 126 else b"\xfe" + len(body).to_bytes(2, "big")
    return b"\x81" + size + b"\0\0\0\0" + body


def test_a_killed_clients_seat_is_free_within_a_second(url: str) -> None:
    child = client(url)
    assert taken(url) == 1
    child.kill()
    assert until(lambda: taken(url) == 0, 1.0)
    child.communicate()


def test_a_stopped_client_is_dropped_within_its_deadline(url: str) -> None:
    child = client(url)
    child.send_signal(signal.SIGSTOP)
    try:
        assert until(lambda: taken(url) == 0, 5)
    finally:
        child.kill()
        child.communicate()


def test_a_half_open_socket_is_dropped_within_its_deadline(url: str) -> None:
    bare = handshake(url)
    assert until(lambda: taken(url) == 1, 2)
    assert until(lambda: taken(url) == 0, 5)
    bare.close()


def test_a_peer_that_does_not_read_is_dropped_and_holds_nobody_up(url: str) -> None:
    bare = handshake(url)
    reset = frame({"type": "reset", "data": {"task_id": "review_complex"}})

    def flood() -> None:
        try:
            while True:
                bare.sendall(reset)
        except OSError:
            return

    thread = threading.Thread(target=flood)
    thread.start()
    with dial(url) as ws:
        assert ask(ws, {"type": "reset", "data": {"task_id": "easy_screening"}})
        assert until(lambda: taken(url) == 1, 20), "the deaf peer kept its seat"
        assert ask(ws, {"type": "step", "data": FINISH})["data"]["done"]
    thread.join(10)
    assert not thread.is_alive(), "the connection of a deaf peer stayed open"
    bare.close()


def test_peers_that_vanish_leave_no_traceback(
    server: tuple[subprocess.Popen[str], str], url: str
) -> None:
    reset = frame({"type": "reset", "data": {"task_id": "review_easy"}})
    for sent in (reset, reset[:7], b"\x81\xff", b"\xff" * 30, reset * 3, b"\x88\x80\0\0\0\0"):
        bare = handshake(url)
        bare.sendall(sent)
        # a reset instead of a goodbye
        bare.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        bare.close()
    assert until(lambda: taken(url) == 0, 5)
    errors = re.findall(r"^rounds_errors_total\S* (\d+)", httpx.get(f"{url}/metrics").text, re.M)
    assert errors == []


def test_a_request_that_breaks_off_is_no_error_of_the_servers(url: str) -> None:
    at = urlsplit(url)
    with socket.create_connection((at.hostname, at.port)) as bare:
        bare.sendall(b'POST /reset HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{"seed')
        time.sleep(0.2)
    requests = re.compile(r'^rounds_http_requests_total{method="POST",status="400"} 1', re.M)
    assert until(lambda: requests.search(httpx.get(f"{url}/metrics").text), 5)
    assert "rounds_errors_total{" not in httpx.get(f"{url}/metrics").text


def test_a_taken_port_is_a_clear_error_of_a_real_process(url: str) -> None:
    port = str(urlsplit(url).port)
    second = subprocess.run(
        [sys.executable, "-m", "env_server.app", "--port", port],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert second.returncode == 1 and second.stdout == ""
    assert f"cannot listen on 127.0.0.1:{port}" in second.stderr and "--port" in second.stderr
    assert "Traceback" not in second.stderr


def test_told_to_stop_it_answers_what_is_under_way_and_begins_nothing_new() -> None:
    child, url = start("--drain-s", "20")
    try:
        with dial(url) as busy, dial(url) as quiet, httpx.Client(base_url=url) as http:
            ask(quiet, {"type": "reset"})
            http.get("/health")
            # a hundred steps in one frame are under way when the signal comes
            steps = [{"type": "reset", "data": {"task_id": "review_easy", "seed": 1}}] * 100
            busy.send(json.dumps({"type": "batch", "data": {"messages": steps}}))
            time.sleep(0.02)
            told = time.monotonic()
            child.send_signal(signal.SIGTERM)
            replies = json.loads(busy.recv(timeout=30))["data"]["replies"]
            assert len(replies) == 100 and replies[0]["type"] == "observation"
            late = [r for r in replies if r["type"] == "error"]
            assert {r["data"]["code"] for r in late} <= {"SERVER_STOPPING"}
            for ws in (busy, quiet):
                with pytest.raises(ConnectionClosed) as closed:
                    ws.recv(timeout=10)
                assert closed.value.rcvd is not None and closed.value.rcvd.code == 1012
        assert child.wait(20) == -signal.SIGTERM
        assert time.monotonic() - told < 20
    finally:
        child.kill()
        said = child.communicate()[1]
    assert "Traceback" not in said


def test_a_server_that_cannot_finish_ends_at_its_deadline() -> None:
    child, url = start("--drain-s", "1")
    try:
        bare = handshake(url)
        for _ in range(200):  # answers that nobody reads
            bare.sendall(frame({"type": "reset", "data": {"task_id": "review_easy", "seed": 1}}))
        time.sleep(0.5)
        child.send_signal(signal.SIGTERM)
        assert child.wait(10) == -signal.SIGTERM
        bare.close()
    finally:
        child.kill()
        child.communicate()


def test_the_log_of_a_real_process_is_json_to_the_last_line() -> None:
    child, url = start("--log-format", "json", "--log-level", "info")
    with dial(url) as ws:
        ask(ws, {"type": "reset"})
    httpx.get(f"{url}/health")
    child.terminate()
    _, said = child.communicate(timeout=20)
    lines = [json.loads(line) for line in said.splitlines()]
    assert {line["message"] for line in lines} >= {"socket closed: peer", "GET /health 200"}
