"""Is the server as fast as promised, beside OpenEnv's own server in the same run?

Steps over the stock protocol and in batched frames (on an environment that costs nothing, and on a
real task), the wait of a step among 256 episodes whose players think, and the memory of 1 000 idle
sessions. Rates are per second of the server's processor time; the clock's are beside them. Both
servers run on the loop that uvicorn chooses, which is uvloop where it is installed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

from bench import load
from bench.load import Rate, Server, running
from bench.promise import Figure, report
from env_server import registry
from env_server.seeds import Stream

TICK = '{"type":"step","data":{"action_type":"tick","by":1}}'
RESET = '{"type":"reset"}'
THINK_S = (0.1, 0.4)  # a language model's turn, on a fast server


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything."""

    rounds: int
    sockets: int
    ticks: int  # steps a socket
    frames: int  # batched frames of 64 steps
    patients: int
    repeats: int  # of each patient's game in a round
    think_for_s: float
    idle: int
    idle_stock: int  # 0: stock is not asked; opening its sessions takes a thread and long


FULL = Size(
    rounds=7,
    sockets=64,
    ticks=200,
    frames=300,
    patients=48,
    repeats=8,
    think_for_s=20.0,
    idle=1000,
    idle_stock=256,
)
QUICK = Size(
    rounds=3,
    sockets=64,
    ticks=60,
    frames=60,
    patients=24,
    repeats=3,
    think_for_s=5.0,
    idle=1000,
    idle_stock=0,
)


def plays(task: str, patients: int, first: int = 0) -> list[list[str]]:
    """Frames of legal random play, one list an episode, chosen here so that no server chooses."""
    family = registry.get("polypharmacy")
    found = []
    for seed in range(first, first + patients):
        episode, stream = family.begin(task, seed, "train"), Stream("bench.server", task, seed)
        frames = [_frame("reset", {"task_id": task, "seed": seed})]
        while not episode.done:
            move = stream.choice(episode.legal_actions())
            frames.append(_frame("step", move.to_json()))
            episode.step(move)
        found.append(frames)
    return found


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _frame(kind: str, data: object) -> str:
    return json.dumps({"type": kind, "data": data})


def ratio(name: str, ours: Sequence[Rate], stock: Sequence[Rate], least: float | None) -> Figure:
    """Ours over stock round by round: the median, with the least and the most."""
    pairs = zip(ours, stock, strict=True)
    each = sorted(a.a_processor_second / b.a_processor_second for a, b in pairs)
    n = sum(rate.steps for rate in (*ours, *stock))
    at: Literal["least"] | None = None if least is None else "least"
    return Figure(name, median(each), "x", n, at, least, each[0], each[-1])


def rates(name: str, of: Sequence[Rate]) -> list[Figure]:
    n = sum(rate.steps for rate in of)
    by_processor = sorted(rate.a_processor_second for rate in of)
    by_clock = median(rate.a_second for rate in of)
    return [
        Figure(
            f"{name}: steps a processor second",
            median(by_processor),
            "1/s",
            n,
            low=by_processor[0],
            high=by_processor[-1],
        ),
        Figure(f"{name}: steps a second by the clock", by_clock, "1/s", n),
    ]


async def protocol(ours: Server, stock: Server, free: Server, size: Size) -> list[Figure]:
    """The counter behind our server, behind stock, and behind stock with async verbs."""
    script = [RESET, *[TICK] * size.ticks]
    taken: dict[str, list[Rate]] = {"ours": [], "stock": [], "stock async": [], "batched": []}
    opened = {}
    for name, server in (("ours", ours), ("stock", stock), ("stock async", free)):
        _say(f"protocol: warming {name}")
        opened[name] = await load.sockets(server.url, size.sockets)
        await load.scripts(server, opened[name], [script[:6]] * size.sockets)
    for at in range(size.rounds):  # in turn: a busy minute of the machine hits all alike
        _say(f"protocol: round {at + 1} of {size.rounds}")
        for name, server in (("stock", stock), ("ours", ours), ("stock async", free)):
            taken[name].append(await load.scripts(server, opened[name], [script] * size.sockets))
        taken["batched"].append(await load.batched(ours, 64, size.frames, TICK, 2))
    figures = [
        ratio("stock protocol, ours over stock", taken["ours"], taken["stock"], 3.0),
        ratio("batched frames over stock", taken["batched"], taken["stock"], 8.0),
        ratio("stock protocol, ours over stock async", taken["ours"], taken["stock async"], None),
    ]
    for name, of in taken.items():
        figures += rates(name, of)
    return figures


async def real(ours: Server, stock: Server, size: Size) -> list[Figure]:
    """The same on review_easy, whose observation is twenty times as large and whose step computes."""
    games = [play * size.repeats for play in plays("review_easy", size.patients)]
    taken: dict[str, list[Rate]] = {"ours": [], "stock": []}
    opened = {}
    for name, server in (("stock", stock), ("ours", ours)):
        _say(f"review_easy: warming {name}")
        opened[name] = await load.sockets(server.url, len(games))
        await load.scripts(
            server, opened[name], games
        )  # patients and optima are then known to both
    for at in range(size.rounds):
        _say(f"review_easy: round {at + 1} of {size.rounds}")
        for name, server in (("stock", stock), ("ours", ours)):
            taken[name].append(await load.scripts(server, opened[name], games))
    figures = [ratio("review_easy, ours over stock", taken["ours"], taken["stock"], None)]
    for name, of in taken.items():
        figures += rates(f"review_easy, {name}", of)
    return figures


async def crowd(name: str, server: Server, size: Size, promised: bool) -> list[Figure]:
    """256 episodes of review_budgeted whose players think between steps."""
    _say(f"{name}: 256 episodes")
    games = plays("review_budgeted", 256)
    opened = await load.sockets(server.url, len(games))
    await load.scripts(server, opened, games)  # 256 patients are made before, as a trainer's are
    waits = await load.waits(opened, games, size.think_for_s, THINK_S)
    await load.closed(opened)
    found = []
    for q in (0.5, 0.99, 0.999):
        label = f"{name}: wait for a step among 256, quantile {q:g}"
        wait_ms, most = (
            1000 * waits[int(q * (len(waits) - 1))],
            30.0 if promised and q == 0.99 else None,
        )
        found.append(Figure(label, wait_ms, "ms", len(waits), "most" if most else None, most))
    return found


async def idle(name: str, server: Server, n: int, promised: bool) -> list[Figure]:
    """The memory of a server on which `n` sockets hold an episode and do nothing."""
    _say(f"{name}: {n} idle sessions")
    empty_mb = server.memory_mb()
    opened = await load.sockets(server.url, n)
    reset = _frame("reset", {"task_id": "review_easy", "seed": 1})
    for at in range(0, n, 64):
        await asyncio.gather(*(load.recite(ws, [reset]) for ws in opened[at : at + 64]))
    held_mb, threads = server.memory_mb(), server.threads()
    for ws in opened:
        ws.transport.abort()
    memory = f"{name}: memory with {n} idle sessions"
    return [
        Figure(memory, held_mb, "MB", n, "most", 150.0)
        if promised
        else Figure(memory, held_mb, "MB", n),
        Figure(f"{name}: memory with none", empty_mb, "MB", 1),
        Figure(f"{name}: threads with {n} idle sessions", threads, "", n),
    ]


OURS = ("env_server.app", "--port", "0", "--capacity", "2000")
STOCK = ("bench.light", "stock-rounds")


async def measured(size: Size, parts: Sequence[str]) -> list[Figure]:
    figures: list[Figure] = []
    if "idle" in parts:  # on fresh servers
        with running(OURS) as (ours,):
            figures += await idle("ours", ours, size.idle, promised=True)
        if size.idle_stock:
            with running(STOCK) as (stock,):
                figures += await idle("stock", stock, size.idle_stock, promised=False)
    if "protocol" in parts:
        kinds = [("bench.light", kind) for kind in ("ours", "stock", "stock-async")]
        with running(*kinds) as (ours, stock, free):
            figures += await protocol(ours, stock, free, size)
    if {"real", "crowd"} & set(parts):
        with running(OURS, STOCK) as (ours, stock):
            if "real" in parts:
                figures += await real(ours, stock, size)
            if "crowd" in parts:
                figures += await crowd("ours", ours, size, promised=True)
                if size.idle_stock:
                    figures += await crowd("stock", stock, size, promised=False)
    return figures


PARTS = ("protocol", "real", "crowd", "idle")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.server", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under a minute, wider spread")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--json", action="store_true", help="print JSON with the machine")
    options = parser.parse_args(argv)
    if not Path("/proc/self/stat").exists():
        print("error: needs /proc, to read a server's processor time and memory", file=sys.stderr)
        return 2
    try:
        figures = asyncio.run(measured(QUICK if options.quick else FULL, options.parts))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    seeds = "train 0 up, fixed play; intervals are the least and the most of the rounds"
    return report("bench.server", figures, as_json=options.json, seeds=seeds)


if __name__ == "__main__":
    sys.exit(main())
