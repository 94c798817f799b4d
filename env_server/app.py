"""The server: every family's doors in one process, polypharmacy's also at the root.

Knows how doors are mounted and how a process starts and stops; imports neither torch nor openenv.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from env_server import flags

if TYPE_CHECKING:
    from fastapi import FastAPI

    from env_server.contract import Family
    from env_server.guard import Keeper
    from env_server.metrics import Metrics
    from env_server.play import Limits
    from env_server.wire import RewardStyle


def create_app(
    family: str = flags.FAMILY,
    *,
    reward_style: RewardStyle = "signed",
    capacity: int = 256,
    idle_s: float = 1800.0,
    families: Sequence[Family] | None = None,
    agent: str | None = None,
    bandit: str | None = None,
    limits: Limits | None = None,
    keeper: Keeper | None = None,
    debug_latent: bool = False,
) -> FastAPI:
    """The ASGI application; `family` has the root, every family its place under /envs/<name>.

    `families` replaces those the registry finds; `agent` answers /agent/suggest (None: each family's
    heuristic), `bandit` is the trained folder behind /bandit (None: where the demo leaves it);
    `limits` and `keeper` say how much and who (None: the defaults, and nobody beyond a session);
    `debug_latent` opens what episodes hide to the keeper, for whoever debugs an environment.
    Raises UnknownFamily for a `family` not among them.
    """
    from fastapi import FastAPI

    from env_server import (
        bandit_door,
        debug_door,
        front_door,
        http_door,
        openapi,
        registry,
        session_door,
        suggest_door,
    )
    from env_server.contract import UnknownFamily, did_you_mean
    from env_server.guard import Keeper
    from env_server.metrics import Metrics
    from env_server.peers import Peers
    from env_server.play import Limits, Play
    from env_server.sessions import SessionTable

    served = list(families) if families else [registry.get(name) for name in registry.names()]
    known = tuple(f.name for f in served)
    if family not in known:
        raise UnknownFamily(did_you_mean("family", family, known))
    limits, keeper = limits or Limits(), keeper or Keeper()
    # 1.x is the version of OpenEnv's HTTP interface, which validators read here; ours is in /metadata
    app = FastAPI(
        title="Rounds",
        version="1.0.0",
        summary="Environments for clinical decisions, spoken to in OpenEnv's protocol.",
        docs_url=None,  # /docs is ours: the same page, under a policy
        redoc_url=None,
    )
    table, peers, metrics = SessionTable(capacity, idle_s), Peers(), Metrics()
    advice = suggest_door.Advice(agent)

    app.include_router(front_door.routes(served, family, table, peers, metrics))
    for one in served:
        play = Play(one, table, reward_style, limits, metrics)
        for prefix in ("", f"/envs/{one.name}") if one.name == family else (f"/envs/{one.name}",):
            app.include_router(http_door.routes(play, peers), prefix=prefix)
            app.include_router(session_door.routes(play, keeper), prefix=prefix)
            app.include_router(suggest_door.routes(play, advice, keeper), prefix=prefix)
            if debug_latent:
                app.include_router(debug_door.routes(play, keeper), prefix=prefix)
    app.include_router(bandit_door.routes(bandit or bandit_door.SNAPSHOT))
    openapi.describe(app, served)
    _guarded(app, limits, metrics, keeper)
    app.state.table, app.state.peers, app.state.metrics = table, peers, metrics
    app.state.body_bytes = limits.body_bytes
    return app


def _guarded(app: FastAPI, limits: Limits, metrics: Metrics, keeper: Keeper) -> None:
    from starlette.middleware.cors import CORSMiddleware

    from env_server.guard import REQUEST_HEADER, Guard, Rates

    if keeper.origins:  # none: no header is sent, and browsers keep other sites out
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(keeper.origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "X-Session-Id", REQUEST_HEADER],
            expose_headers=["X-Session-Id", REQUEST_HEADER, "Retry-After"],
        )
    app.add_middleware(Guard, limits=limits, metrics=metrics, rates=Rates(limits))


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until interrupted. Returns 0 after a clean stop, 1 where it could not start."""
    options = flags.read(argv)
    from env_server import debug_door, logs, process, registry
    from env_server.contract import RoundsError

    logs.begin(options.log_level, options.log_format)
    try:
        listener = process.listen(options.host, options.port)
    except OSError as error:
        print(_cannot_listen(options, error), file=sys.stderr)
        return 1
    with listener:
        url, local = process.address(listener)
        try:
            registry.on_tables(options.family, options.tables)
            app = _app(options, local)
            _warm()
        except (
            RoundsError,
            ValueError,
        ) as error:  # ValueError: a table that does not hold together
            print(f"error: {error}", file=sys.stderr)
            return 1
        print(_greeting(url, options.family), flush=True)
        if options.debug_latent:
            print(f"warning: {debug_door.WARNING}", file=sys.stderr)
        manners = process.Manners(options.ping_s, options.pong_s, options.drain_s)
        return process.serve(app, listener, manners, options.log_level)


def _app(options: argparse.Namespace, local: bool) -> FastAPI:
    from env_server.guard import Keeper
    from env_server.play import Limits

    return create_app(
        options.family,
        reward_style=options.reward_style,
        capacity=options.capacity,
        idle_s=options.idle_s,
        agent=options.agent,
        bandit=options.bandit,
        limits=Limits(
            begin_s=options.begin_s,
            step_s=options.step_s,
            send_s=options.send_s,
            body_bytes=options.max_body,
            rate=options.rate,
        ),
        keeper=Keeper(options.token, local, tuple(options.cors)),
        debug_latent=options.debug_latent,
    )


def _warm() -> None:
    """Begin one case of every family: bad tables stop the server now, and nobody's reset is slow."""
    from env_server import registry

    for name in registry.names():
        registry.get(name).begin()


def _greeting(url: str, family: str) -> str:
    from env_server import registry

    lines = [f"Rounds listens on {url}", f"  docs      {url}/docs"]
    for name in registry.names():
        role = " (also at /)" if name == family else ""
        tasks = ", ".join(registry.get(name).tasks)
        lines.append(f"  family    {url}/envs/{name}{role}: {tasks}")
    return "\n".join([*lines, "  Ctrl-C stops it"])


def _cannot_listen(options: argparse.Namespace, error: OSError) -> str:
    return (
        f"error: cannot listen on {options.host}:{options.port}: {error.strerror or error}; "
        f"choose another with --port (0 takes a free one) or --host"
    )


if __name__ == "__main__":
    sys.exit(main())
