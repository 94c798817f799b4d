"""Hostile frames against a real server: does every one get an answer, and does everything live on?

`python -m bench.fuzz --frames 100000` starts a server in a process of its own, sends it what hypothesis
makes of its protocol, and reports what came back. Knows the protocol's words, to come close to them.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as open_socket

from bench.promise import Figure, report

KINDS = ("reset", "step", "state", "batch", "mcp", "close", "rest", "")
KEYS = (
    *("type", "data", "request_id", "messages", "episode", "task_id", "seed", "split"),
    *("episode_id", "action_type", "drug_id_1", "drug_id_2", "target_drug_id", "refusal", "kind"),
    *("why", "intervention_type", "proposed_new_drug_id", "rationale", "metadata", "jsonrpc"),
)
WORDS = (
    *("easy_screening", "review_easy", "train", "test", "query_ddi", "propose_intervention"),
    *("finish_review", "DRUG_WARFARIN", "stop", "substitute", "malformed", "truncated", "a"),
)
ANSWERS = {"observation", "state", "error", "mcp", "batch"}
CHUNK = 4000  # frames one run of hypothesis makes
BUNDLE = 10  # frames an example: sent together, then all answers read


def frames() -> st.SearchStrategy[str | bytes]:
    """One frame: near the protocol, JSON of any shape, cut JSON, text, bytes, or too much of it."""
    leaf = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.sampled_from((0, 1, 2**31, 2**63, -1, 1e999))
        | st.sampled_from(WORDS)
        | st.text(max_size=12)
    )
    key = st.sampled_from(KEYS) | st.text(max_size=6)
    tree = st.recursive(
        leaf,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(key, inner, max_size=5),
        max_leaves=10,
    )
    action = st.fixed_dictionaries(
        {"action_type": st.sampled_from(WORDS)},
        optional={name: st.sampled_from(WORDS) | leaf for name in KEYS[10:19]},
    )
    case = st.fixed_dictionaries(
        {},
        optional={
            "task_id": st.sampled_from(WORDS) | leaf,
            "seed": st.integers(0, 50) | leaf,
            "split": st.sampled_from(WORDS) | leaf,
        },
    )
    message = st.fixed_dictionaries(
        {"type": st.sampled_from(KINDS)},
        optional={"data": action | case | tree, "request_id": leaf, "episode": leaf},
    )
    batch = st.fixed_dictionaries(
        {"type": st.just("batch")},
        optional={
            "data": st.fixed_dictionaries({"messages": st.lists(message | tree, max_size=5)})
        },
    )
    spelled = (message | batch | tree).map(json.dumps)
    cut = st.tuples(spelled, st.integers(0, 80)).map(lambda pair: pair[0][: pair[1]])
    large = st.integers(60_000, 70_000).map(lambda n: json.dumps({"type": "step", "x": "y" * n}))
    deep = st.integers(1, 30_000).map(lambda n: '{"type":"step","data":' + "[" * n)
    common = st.one_of(spelled, spelled, spelled, cut, st.text(max_size=40))
    # large ones take their time: one in forty
    rare = st.integers(0, 39).flatmap(lambda n: large | deep if n == 0 else common)
    return st.one_of(rare, rare, rare, st.binary(max_size=60)).filter(_does_not_close)


def _does_not_close(frame: str | bytes) -> bool:
    """A goodbye is answered by one, and would end the conversation."""
    return isinstance(frame, bytes) or '"close"' not in frame


@dataclass(slots=True)
class Outcome:
    """What came back."""

    sent: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def hammer(ws: ClientConnection, wanted: int, number: int, shown: bool = False) -> Outcome:
    """Send at least `wanted` frames on one socket; every answer is judged."""
    outcome = Outcome()
    while outcome.sent < wanted and not outcome.wrong:
        # hypothesis remembers what it made, so that a long run is made of short ones
        _hammer(ws, min(CHUNK, wanted - outcome.sent), number, outcome)
        number += 1_000_000
        if shown:
            print(f"\r{outcome.sent} of {wanted} frames", end="", file=sys.stderr, flush=True)
    return outcome


def _hammer(ws: ClientConnection, wanted: int, number: int, outcome: Outcome) -> None:

    @seed(number)
    @settings(
        max_examples=-(-wanted // BUNDLE),
        database=None,
        deadline=None,
        derandomize=False,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(frames(), min_size=BUNDLE, max_size=BUNDLE))
    def bundle(sent: list[str | bytes]) -> None:
        for frame in sent:
            ws.send(frame)
        for frame in sent:
            _judge(frame, json.loads(ws.recv(timeout=60)), outcome)

    bundle()


def _judge(frame: str | bytes, reply: Any, outcome: Outcome) -> None:
    outcome.sent += 1
    code = reply["data"].get("code", reply["type"])
    outcome.answers[code] += 1
    inside = json.dumps(reply)
    if reply["type"] not in ANSWERS or "internal error" in inside or "Traceback" in inside:
        outcome.wrong.append(f"{frame[:300]!r} -> {inside[:300]}")


def counted(url: str, name: str) -> float:
    """The sum of a metric over its labels."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=20) as page:
        text = page.read().decode()
    return sum(float(v) for v in re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", text, re.M))


def lives(ws: ClientConnection) -> bool:
    """Whether the socket still plays an episode to its end."""
    ws.send('{"type":"reset","data":{"task_id":"easy_screening","seed":1}}')
    begun = json.loads(ws.recv(timeout=60))
    ws.send('{"type":"step","data":{"action_type":"finish_review"}}')
    return begun["type"] == "observation" and json.loads(ws.recv(timeout=60))["data"]["done"]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.fuzz", description=__doc__)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print JSON with the machine")
    options = parser.parse_args(argv)
    command = [sys.executable, "-m", "env_server.app", "--port", "0", "--capacity", "64"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        url = child.stdout.readline().rsplit(" ", 1)[1].strip()
        figures = against(url, options.frames, options.seed)
    finally:
        child.terminate()
        _, said = child.communicate(timeout=30)
    traces = said.count("Traceback")
    figures.append(Figure("tracebacks in the server's log", traces, "", 1, "most", 0))
    return report("bench.fuzz", figures, as_json=options.json, seeds=str(options.seed))


def against(url: str, wanted: int, number: int) -> list[Figure]:
    """Hammer the server at `url`, and see what is left of it."""
    before = counted(url, "process_resident_memory_bytes")
    started = time.monotonic()
    with open_socket(f"ws{url[4:]}/ws", proxy=None, ping_interval=None, max_size=2**26) as ws:
        outcome = hammer(ws, wanted, number, shown=True)
        alive = lives(ws)
    took_s = time.monotonic() - started
    print(file=sys.stderr)
    for words in outcome.wrong[:5]:
        print(words, file=sys.stderr)
    print(", ".join(f"{k} {n}" for k, n in outcome.answers.most_common()), file=sys.stderr)
    deadline = time.monotonic() + 5
    while counted(url, "rounds_sessions") and time.monotonic() < deadline:
        time.sleep(0.05)
    grown = (counted(url, "process_resident_memory_bytes") - before) / 2**20
    n = outcome.sent
    return [
        Figure("hostile frames answered", n, "frames", n, "least", wanted),
        Figure("answers that are none, or show our insides", len(outcome.wrong), "", n, "most", 0),
        Figure("errors of ours", counted(url, "rounds_errors_total"), "", n, "most", 0),
        Figure("sockets that still play afterwards", float(alive), "", 1, "least", 1),
        Figure("seats still taken afterwards", counted(url, "rounds_sessions"), "", 1, "most", 0),
        Figure("memory grown by", grown, "MiB", n),
        Figure("frames a second, this side included", n / took_s, "1/s", n),
    ]


if __name__ == "__main__":
    sys.exit(main())
