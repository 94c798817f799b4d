"""An environment server of one's own: started for a run, gone when the run is, however it ends.

One that dies meanwhile is started again at the same address. Knows how to start and stop a process; nothing of training, and of the server only its command.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from env_server.contract import RoundsError

HOST = "127.0.0.1"
_GRACE_S = 5.0
_GLANCE_S = 0.1
_SHORT_S = 60.0  # a server that lives no longer than this
_SHORT_LIVES = 4  # so many times in a row is beyond help
_SERVE = "import sys; from training.own_server import serve_while_wanted as s; s(sys.argv[1:])"


class ServerDidNotStart(RoundsError, RuntimeError):
    """The child ended, or did not answer in time."""


@contextmanager
def own_server(log: Path, wait_s: float = 60.0) -> Iterator[str]:
    """The URL of a fresh server on a free loopback port; ended on leaving. Writes its words to `log`.

    The child leads a session of its own, so Ctrl-C reaches the run alone, and it ends by itself
    when our end of its standard input closes: not even kill -9 leaves an orphan.
    Raises ServerDidNotStart.
    """
    port = free_port()
    url = f"http://{HOST}:{port}"
    log.parent.mkdir(parents=True, exist_ok=True)
    over = threading.Event()
    child = _start(port, log)
    try:
        _await_health(url, child, log, wait_s)
    except BaseException:
        _end(child)
        raise
    keeper = threading.Thread(target=_keep, args=(child, port, log, over), daemon=True)
    keeper.start()
    try:
        yield url
    finally:
        over.set()
        keeper.join()


def _start(port: int, log: Path) -> subprocess.Popen[bytes]:
    with _words(log) as out:
        return subprocess.Popen(
            [sys.executable, "-c", _SERVE, "--host", HOST, "--port", str(port)],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=out,
            cwd=Path(__file__).resolve().parents[1],
            start_new_session=True,
        )


def _keep(child: subprocess.Popen[bytes], port: int, log: Path, over: threading.Event) -> None:
    """Have a server at `port` until `over`, then none. One that keeps dying is given up."""
    began, short_lives = time.monotonic(), 0
    while not over.wait(_GLANCE_S):
        if child.poll() is None or short_lives > _SHORT_LIVES:
            continue
        lived_s = time.monotonic() - began
        short_lives = short_lives + 1 if lived_s < _SHORT_S else 1
        _note(log, f"ended with code {child.returncode} after {lived_s:.0f} s")
        if short_lives <= _SHORT_LIVES:
            _end(child)
            child, began = _start(port, log), time.monotonic()
    _end(child)


def _words(log: Path) -> BinaryIO:
    """Where the server's words go. A folder that is gone or a full disk is no reason to have none."""
    try:
        return log.open("ab")
    except OSError:
        return open(os.devnull, "ab")


def _note(log: Path, said: str) -> None:
    with suppress(OSError), _words(log) as out:  # a full disk shows when the line is written
        out.write(f"{said}\n".encode())


def serve_while_wanted(argv: list[str]) -> None:
    """Serve in this process until standard input closes: the child's half of `own_server`."""
    from env_server.app import main

    threading.Thread(target=_leave_with_parent, daemon=True).start()
    sys.exit(main(argv))


def _leave_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _await_health(url: str, child: subprocess.Popen[bytes], log: Path, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise ServerDidNotStart(
                f"the environment server ended with code {child.returncode}; it said in {log}:\n"
                + _tail(log)
            )
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2.0) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):  # not listening yet
            time.sleep(0.1)
    raise ServerDidNotStart(f"no answer from {url}/health in {wait_s:.0f} s; see {log}")


def _tail(log: Path, lines: int = 12) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.stdin:
        child.stdin.close()
    for sign in (signal.SIGTERM, signal.SIGKILL):
        if child.poll() is None:
            try:
                os.killpg(child.pid, sign)
                child.wait(_GRACE_S)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
    child.wait()
