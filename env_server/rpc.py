"""The JSON-RPC door `/mcp`: says that these environments are played by reset and step, not by tools.

Knows JSON-RPC 2.0 and nothing of environments.
"""

from __future__ import annotations

from env_server.contract import JsonObject

_INVALID_REQUEST, _NO_METHOD = -32600, -32601


def answer(request: object) -> JsonObject:
    """The JSON-RPC answer to `request`: an empty tool list, a pong, or an error by the standard."""
    if not isinstance(request, dict) or not isinstance(request.get("method"), str):
        return _failed(None, _INVALID_REQUEST, "a request has jsonrpc, method and id")
    given = request.get("id")
    id = given if isinstance(given, (str, int)) and not isinstance(given, bool) else None
    if request["method"] == "tools/list":
        return {"jsonrpc": "2.0", "id": id, "result": {"tools": []}}
    if request["method"] == "ping":
        return {"jsonrpc": "2.0", "id": id, "result": {}}
    wrong = request["method"][:60]
    return _failed(id, _NO_METHOD, f"no method {wrong!r}; play by /reset and /step, or by /ws")


def _failed(id: str | int | None, code: int, message: str) -> JsonObject:
    return {"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}}
