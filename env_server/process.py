"""The server as a process: a socket to listen on, its manners, and an orderly end.

Knows uvicorn and sockets; nothing of what is served.
"""

from __future__ import annotations

import logging
import socket
import sys
from dataclasses import dataclass
from typing import Any

import uvicorn

from env_server.frames import Socket
from env_server.peers import Peers
from env_server.sessions import SessionTable

log = logging.getLogger("rounds.process")


@dataclass(frozen=True, slots=True)
class Manners:
    """How the process treats its peers, and how it ends."""

    ping_s: float = 30.0  # a silent socket is asked so often whether it is there
    pong_s: float = 60.0  # and dropped after so long; an LLM client may hold its interpreter
    drain_s: float = 5.0  # answers under way may take so long once the process was told to stop
    frame_bytes: int = 16 * 64 * 1024  # larger frames are answered; beyond this, cut unread


class Server(uvicorn.Server):
    """uvicorn's server; told to stop, it lets answers under way be given before it closes."""

    def __init__(
        self, config: uvicorn.Config, table: SessionTable, peers: Peers, drain_s: float
    ) -> None:
        super().__init__(config)
        self._table, self._peers, self._drain_s = table, peers, drain_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._table.stopping = True
        for server in self.servers:
            server.close()  # whoever comes now is told by the system
        unfinished = await self._peers.leave(self._drain_s)
        if unfinished:
            log.warning("%d answers were not finished in %g s", unfinished, self._drain_s)
        await super().shutdown(sockets)


def serve(app: Any, listener: socket.socket, manners: Manners, log_level: str) -> int:
    """Serve until told to stop. Returns 0, or ends by the signal as supervisors expect."""
    # a thread that computes gives way to the loop after 1 ms, not 5
    sys.setswitchinterval(0.001)
    config = uvicorn.Config(
        app,
        ws=Socket,
        log_config=None,
        log_level=log_level,
        access_log=False,  # the guard writes it, with ids
        ws_max_size=manners.frame_bytes,
        ws_per_message_deflate=False,  # costs 40 % on a local link
        ws_ping_interval=manners.ping_s,
        ws_ping_timeout=manners.pong_s,
        timeout_graceful_shutdown=max(1, round(manners.drain_s)),
        server_header=False,
    )
    server = Server(config, app.state.table, app.state.peers, manners.drain_s)
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    return 0


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one. Raises OSError where it cannot be had."""
    kind, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(kind, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)  # also claims the port: two may be bound, only one may listen
    except OSError:
        listener.close()
        raise
    return listener


def address(listener: socket.socket) -> tuple[str, bool]:
    """The URL a person on this machine types, and whether only this machine reaches it."""
    host, port = listener.getsockname()[:2]
    local = host == "::1" or host.startswith("127.")
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}", local
