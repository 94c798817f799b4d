"""The server: every family's doors in one process, polypharmacy's also at the root.

Knows how doors are mounted and how a process starts and stops; imports neither torch nor openenv.
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import FastAPI

    from env_server.contract import Family
    from env_server.wire import RewardStyle

DEFAULT_FAMILY = "polypharmacy"
DEFAULT_PORT = 7860


def create_app(
    family: str = DEFAULT_FAMILY,
    *,
    reward_style: RewardStyle = "signed",
    capacity: int = 256,
    idle_s: float = 1800.0,
    families: Sequence[Family] | None = None,
    agent: str | None = None,
    bandit: str | None = None,
) -> FastAPI:
    """The ASGI application; `family` has the root, every family its place under /envs/<name>.

    `families` replaces those the registry finds; `agent` answers /agent/suggest (None: each family's
    heuristic), `bandit` is the trained folder behind /bandit (None: where the demo leaves it).
    Raises UnknownFamily for a `family` not among them.
    """
    from fastapi import FastAPI

    from env_server import bandit_door, http_door, registry, suggest_door
    from env_server.contract import UnknownFamily, did_you_mean
    from env_server.play import Play
    from env_server.sessions import SessionTable

    served = list(families) if families else [registry.get(name) for name in registry.names()]
    known = tuple(f.name for f in served)
    if family not in known:
        raise UnknownFamily(did_you_mean("family", family, known))
    # 1.x is the version of OpenEnv's HTTP interface, which validators read here; ours is in /metadata
    app = FastAPI(
        title="Rounds",
        version="1.0.0",
        summary="Environments for clinical decisions, spoken to in OpenEnv's protocol.",
    )
    table = SessionTable(capacity, idle_s)
    advice = suggest_door.Advice(agent)

    app.include_router(http_door.front(served, family))
    for one in served:
        play = Play(one, table, reward_style)
        if one.name == family:
            app.include_router(http_door.routes(play))
            app.include_router(suggest_door.routes(play, advice))
        app.include_router(http_door.routes(play), prefix=f"/envs/{one.name}")
        app.include_router(suggest_door.routes(play, advice), prefix=f"/envs/{one.name}")
    app.include_router(bandit_door.routes(bandit or bandit_door.SNAPSHOT))
    app.state.table = table
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until interrupted. Returns 0 after a clean stop, 1 where it could not start."""
    options = _parser().parse_args(argv)
    from env_server import registry
    from env_server.contract import RoundsError

    logging.basicConfig(
        level=options.log_level.upper(), format="%(levelname)s %(name)s: %(message)s"
    )
    try:
        listener = _listen(options.host, options.port)
    except OSError as error:
        print(_cannot_listen(options, error), file=sys.stderr)
        return 1
    with listener:
        try:
            registry.on_tables(options.family, options.tables)
            app = create_app(
                options.family,
                reward_style=options.reward_style,
                capacity=options.capacity,
                idle_s=options.idle_s,
                agent=options.agent,
                bandit=options.bandit,
            )
            _warm()
        except (
            RoundsError,
            ValueError,
        ) as error:  # ValueError: a table that does not hold together
            print(f"error: {error}", file=sys.stderr)
            return 1
        return _serve(app, listener, options)


def _warm() -> None:
    """Begin one case of every family: bad tables stop the server now, and nobody's reset is slow."""
    from env_server import registry

    for name in registry.names():
        registry.get(name).begin()


def _serve(app: FastAPI, listener: socket.socket, options: argparse.Namespace) -> int:
    import uvicorn

    config = uvicorn.Config(
        app,
        log_level=options.log_level,
        access_log=options.log_level == "debug",
        # messages over 64 kB are answered; only what is far beyond is cut at the transport
        ws_max_size=16 * 64 * 1024,
        ws_per_message_deflate=False,  # costs 40 % on a local link
        ws_ping_interval=30.0,
        ws_ping_timeout=60.0,  # an LLM client may hold its interpreter for long
        timeout_graceful_shutdown=3,
    )
    print(_greeting(app, listener, options.family), flush=True)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    return 0


def _greeting(app: FastAPI, listener: socket.socket, family: str) -> str:
    from env_server import registry

    host, port = listener.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    url = f"http://{shown}:{port}"
    lines = [f"Rounds listens on {url}", f"  docs      {url}/docs"]
    for name in registry.names():
        role = " (also at /)" if name == family else ""
        tasks = ", ".join(registry.get(name).tasks)
        lines.append(f"  family    {url}/envs/{name}{role}: {tasks}")
    return "\n".join([*lines, "  Ctrl-C stops it"])


def _listen(host: str, port: int) -> socket.socket:
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


def _cannot_listen(options: argparse.Namespace, error: OSError) -> str:
    return (
        f"error: cannot listen on {options.host}:{options.port}: {error.strerror or error}; "
        f"choose another with --port (0 takes a free one) or --host"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m env_server.app", description="Serve the environments over HTTP and sockets."
    )
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 opens it to the network")
    parser.add_argument("--port", type=_port, default=DEFAULT_PORT, help="0 takes a free port")
    parser.add_argument("--family", default=DEFAULT_FAMILY, help="the family at the root")
    parser.add_argument(
        "--tables", metavar="DIR", help="a hospital's own tables for that family (default: shipped)"
    )
    parser.add_argument(
        "--reward-style",
        choices=("signed", "bounded"),
        default="signed",
        help="bounded clamps every reward shown into (0.001, 0.999)",
    )
    parser.add_argument("--capacity", type=_positive, default=256, help="sessions at one time")
    parser.add_argument("--idle-s", type=_seconds, default=1800.0, help="unused sessions end after")
    parser.add_argument(
        "--agent",
        default=os.environ.get("SUGGEST_AGENT") or None,
        help="who answers /agent/suggest, as in eval.compare (default: SUGGEST_AGENT, else heuristic)",
    )
    parser.add_argument(
        "--bandit",
        metavar="DIR",
        help="the trained bandit behind /bandit, e.g. runs/bandit/review_easy (default: the demo's)",
    )
    parser.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default="warning"
    )
    return parser


def _port(given: str) -> int:
    if not given.isdecimal() or int(given) > 65535:
        raise argparse.ArgumentTypeError(f"{given!r} is no port; ports are 0 to 65535")
    return int(given)


def _seconds(given: str) -> float:
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds <= 1e6:
        raise argparse.ArgumentTypeError(f"{given!r} is not a number of seconds above 0")
    return seconds


def _positive(given: str) -> int:
    if not given.isdecimal() or int(given) < 1:
        raise argparse.ArgumentTypeError(f"{given!r} is not a whole number of 1 or more")
    return int(given)


if __name__ == "__main__":
    sys.exit(main())
