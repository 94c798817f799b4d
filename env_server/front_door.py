"""The front of the server: what it is, how full it is, what it counted, and the pages for people.

Knows all families by name and no episode.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from html import escape
from typing import Final

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, Response

from env_server import metrics as counted
from env_server.contract import Family, JsonObject
from env_server.http_door import json_reply, package_version
from env_server.metrics import Metrics, Read
from env_server.peers import Peers
from env_server.sessions import SessionTable

_PAGE: Final = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Rounds</title>
<meta name="viewport" content="width=device-width"><style>:root{{color-scheme:light dark}}
body{{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:2rem auto;padding:0 1rem}}</style>
<h1>Rounds</h1><p>Environments for clinical decisions, spoken to in OpenEnv's protocol.
<p><a href="docs">API</a> · <a href="schema">schema</a> · <a href="metadata">metadata</a> ·
<a href="metrics">metrics</a>
<h2>Families</h2><ul>{families}</ul></html>"""
_STYLE_ONLY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'"


def routes(
    families: Sequence[Family], default: str, table: SessionTable, peers: Peers, metrics: Metrics
) -> APIRouter:
    """The root: JSON for programs, a page for people, 200 for HEAD (a Space waits for it)."""
    router = APIRouter()
    metrics.read += _readings(table, peers)

    @router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def root(request: Request) -> Response:
        if "text/html" in request.headers.get("accept", ""):
            return _page(families)
        listed = {f.name: {"path": f"/envs/{f.name}", "tasks": list(f.tasks)} for f in families}
        about = {"name": "rounds", "version": package_version(), "docs": "/docs"}
        return json_reply({**about, "default_family": default, "families": listed})

    @router.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return _docs()

    @router.get("/v1/families", tags=["server"])
    async def listed() -> Response:
        """Every family with its tasks and where its doors are."""
        return json_reply({"default": default, "families": [_told(f) for f in families]})

    @router.get("/v1/capacity", tags=["server"])
    async def capacity() -> Response:
        """Seats of this server, sockets and HTTP sessions together."""
        return json_reply(_capacity(table, peers))

    @router.get("/metrics", tags=["server"], response_class=Response)
    async def page() -> Response:
        """What this server counts, in Prometheus' text format."""
        return Response(metrics.page(), headers={"Content-Type": counted.CONTENT_TYPE})

    return router


def _capacity(table: SessionTable, peers: Peers) -> JsonObject:
    taken = len(table)
    return {
        "capacity": table.capacity,
        "taken": taken,
        "free": max(0, table.capacity - taken),
        "sockets": len(peers),
        "idle_s": table.idle_s,
        "stopping": table.stopping,
    }


def _told(family: Family) -> JsonObject:
    tasks = [
        {"id": t.name, "difficulty": t.difficulty, "max_steps": t.max_steps, "summary": t.summary}
        for t in family.tasks.values()
    ]
    return {
        "name": family.name,
        "version": family.version,
        "summary": family.summary,
        "path": f"/envs/{family.name}",
        "sessions": f"/envs/{family.name}/v1/sessions",
        "default_task": family.default_task,
        "tasks": tasks,
    }


def _readings(table: SessionTable, peers: Peers) -> list[Read]:
    return [
        Read(
            "rounds_sessions",
            "Seats taken now.",
            lambda: {(family, kind): float(n) for (family, kind), n in table.seated().items()},
            ("family", "kind"),
        ),
        Read("rounds_capacity", "Seats there are.", lambda: {(): float(table.capacity)}),
        Read("rounds_sockets", "Sockets open now.", lambda: {(): float(len(peers))}),
        Read(
            "rounds_capacity_refusals_total",
            "Sessions refused for want of a seat.",
            lambda: {(): float(table.turned_away)},
            kind="counter",
        ),
    ]


def _page(families: Sequence[Family]) -> Response:
    rows = "".join(
        f"<li><b>{escape(f.name)}</b>: {escape(f.summary)}<br>{escape(', '.join(f.tasks))}"
        for f in families
    )
    headers = {"Content-Security-Policy": _STYLE_ONLY}
    return HTMLResponse(_PAGE.format(families=rows), headers=headers)


def _docs() -> Response:
    """FastAPI's page; its policy lets through that page's own script and the library it names."""
    # relative, so that it holds behind a proxy that puts the server in a folder
    page = bytes(get_swagger_ui_html(openapi_url="openapi.json", title="Rounds: API").body)
    inline = re.findall(rb"<script>(.*?)</script>", page, re.S)
    hashes = " ".join(f"'sha256-{b64encode(sha256(one).digest()).decode()}'" for one in inline)
    hosts = " ".join(sorted(set(re.findall(r'(https://[^/"]+)/', page.decode()))))
    policy = (
        f"default-src 'none'; script-src {hosts} {hashes}; style-src {hosts} 'unsafe-inline'; "
        f"img-src data: {hosts}; connect-src 'self'; base-uri 'none'"
    )
    return HTMLResponse(page, headers={"Content-Security-Policy": policy})
