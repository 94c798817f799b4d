"""Everything that may break between a trainer and its environment, broken on purpose, in real processes.

Servers are killed, roads made bad, clients and trainers killed; each time what was played must be what
would have been played, in bounded time, and nothing may be left behind. Knows the breaking and the
counting; what a right episode is, is `scripted.py`'s.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit
from urllib.request import urlopen

from bench.bad_road import FAULTS, Fault, bad_road
from bench.load import recite, sockets
from bench.processes import children
from bench.promise import Figure, report
from bench.scripted import Performance, Script, perform, scripts
from eval.door import RemoteDoor
from training.own_server import own_server

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "bench" / "results" / "faults.json"
KILLS = 20  # of trainers, in the whole edition
FAMILY, TASK = "polypharmacy", "review_budgeted"
DEADLINE_S, PATIENCE_S = 3.0, 30.0
ROAD_FAULTS = 3  # answers spoiled, each at another turn
# four frames of steps of so many long observations are 6 MB; Linux buffers 4 MB at most by default
DEAF_TASK, DEAF_EPISODES, DEAF_FRAMES = "complex_tradeoff", 256, 4

HOLD = """
import sys, time
from env_server.client import connect
held = connect(sys.argv[1], pool=64).begin_many([(None, seed, "train") for seed in range(int(sys.argv[2]))])
print("holding", flush=True)
time.sleep(600)
"""


HANDSHAKE = (
    "GET /ws HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Server:
    """A server in a process of its own that can be killed and started again where it was."""

    def __init__(self, *flags: str) -> None:
        self._flags = flags
        self.port = 0
        self.start()
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "env_server.app", "--port", str(self.port), *self._flags],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._child.stdout is not None
        greeting = self._child.stdout.readline()
        if "listens on" not in greeting:
            raise RuntimeError(f"the server did not start: {greeting}")
        self.port = int(greeting.rsplit(":", 1)[1])

    def kill(self) -> None:
        self._child.kill()
        self._child.communicate()

    def freeze(self, frozen: bool) -> None:
        self._child.send_signal(signal.SIGSTOP if frozen else signal.SIGCONT)

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, it: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._child.poll() is None:
            self.freeze(False)
            self.kill()


@contextmanager
def door_to(url: str, seats: int) -> Iterator[RemoteDoor]:
    door = RemoteDoor(url, FAMILY, seats, PATIENCE_S, DEADLINE_S)
    try:
        yield door
    finally:
        door.close()


# -- what may happen -----------------------------------------------------------------------------


def server_killed_and_started_again(wanted: Sequence[Script]) -> Performance:
    with Server() as server, door_to(server.url, len(wanted)) as door:

        def between(turn: int) -> None:
            if turn in (1, 4):
                server.kill()
                threading.Thread(target=server.start).start()

        return perform(door, wanted, between)


def own_server_killed(wanted: Sequence[Script]) -> Performance:
    """The server that a run starts for itself comes back by itself."""
    with (
        tempfile.TemporaryDirectory() as folder,
        own_server(Path(folder) / "server.log") as url,
        door_to(url, len(wanted)) as door,
    ):

        def between(turn: int) -> None:
            if turn == 2:
                for child in children(os.getpid()):
                    os.kill(child, signal.SIGKILL)

        return perform(door, wanted, between)


def one_of_two_servers_killed(wanted: Sequence[Script]) -> Performance:
    with (
        Server() as first,
        Server() as second,
        door_to(f"{first.url},{second.url}", len(wanted)) as door,
    ):
        return perform(door, wanted, lambda turn: first.kill() if turn == 2 else None)


def server_frozen(wanted: Sequence[Script]) -> Performance:
    """Alive, listening, and deaf for longer than a deadline: what it says later is nobody's."""
    with Server() as server, door_to(server.url, len(wanted)) as door:

        def between(turn: int) -> None:
            if turn == 2:
                server.freeze(True)
                threading.Timer(DEADLINE_S + 1.0, server.freeze, (False,)).start()

        return perform(door, wanted, between)


def bad_answers(url: str, fault: Fault, wanted: Sequence[Script]) -> Performance:
    """Twice in an episode the next few answers of the server at `url` are spoiled on the way."""
    with (
        bad_road(url, delay_s=DEADLINE_S + 1.0) as road,
        door_to(road.url, len(wanted)) as door,
    ):

        def between(turn: int) -> None:
            if turn in (1, 3):
                road.break_down(fault, ROAD_FAULTS)

        seen = perform(door, wanted, between)
        if road.struck < ROAD_FAULTS:
            raise RuntimeError(f"{fault}: only {road.struck} answers were spoiled")
        return seen


def client_killed(holding: int) -> float:
    """Seconds until a full server has a seat again after its only client was killed."""
    from env_server.client import CapacityError, connect

    with Server("--capacity", str(holding)) as server:
        client = subprocess.Popen(
            [sys.executable, "-c", HOLD, server.url, str(holding)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert client.stdout is not None
        client.stdout.readline()
        client.kill()
        began = time.perf_counter()
        client.communicate()
        while True:
            try:
                connect(server.url, patience_s=0.0).close()
            except CapacityError:
                time.sleep(0.01)
                continue
            return time.perf_counter() - began


@contextmanager
def deaf_peer(url: str) -> Iterator[None]:
    """A peer that asks for one long answer after another and reads none of them."""
    where = urlsplit(url)
    with socket.socket() as bare:
        bare.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        bare.connect((where.hostname, where.port))
        bare.sendall(HANDSHAKE.format(where.netloc).encode())
        bare.recv(4096)
        asking = threading.Thread(target=_ask_until_cut, args=(bare,), daemon=True)
        asking.start()
        try:
            yield
        finally:
            with suppress(OSError):
                bare.shutdown(socket.SHUT_RDWR)
            asking.join(10.0)


def _ask_until_cut(bare: socket.socket) -> None:
    body = b'{"type":"reset","data":{"task_id":"review_complex"}}'
    with suppress(OSError):
        while True:
            bare.sendall(b"\x81" + bytes([0x80 | len(body)]) + b"\0\0\0\0" + body)  # masked with 0


def slow_reader(wanted: Sequence[Script]) -> tuple[Performance, float]:
    """What others play beside a peer that does not read, and seconds until such a one's seat is free."""
    with Server("--send-s", "1") as server:
        with deaf_peer(server.url), door_to(server.url, len(wanted)) as door:
            seen = perform(door, wanted)
        while _taken(server.url) > 0:  # the first one's seat must not be taken for the second's
            time.sleep(0.02)
        return seen, asyncio.run(_freed(server.url))


async def _freed(url: str) -> float:
    """Seconds from when a peer stops reading, with nobody else there, until its seats are free.

    What it does not read is cheap to say and more than the system's buffers hold: filling those one
    case after another takes as long as drawing the cases does, and says nothing of the deadline.
    """
    (peer,) = await sockets(url, 1)
    names = [str(at) for at in range(DEAF_EPISODES)]
    begin = [{"type": "reset", "episode": n, "data": {"task_id": DEAF_TASK}} for n in names]
    await recite(peer, [_batch(begin)])
    peer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.transport.pause_reading()
    began = time.perf_counter()
    for _ in range(DEAF_FRAMES):
        await peer.send(_batch([{"type": "step", "episode": n, "data": {}} for n in names]))
    while _taken(url) > 0 and time.perf_counter() - began < PATIENCE_S:
        await asyncio.sleep(0.02)
    freed_s = time.perf_counter() - began
    peer.transport.abort()
    return freed_s


def _batch(messages: Sequence[Mapping[str, object]]) -> str:
    return json.dumps({"type": "batch", "data": {"messages": messages}})


def _taken(url: str) -> int:
    with urlopen(f"{url}/v1/capacity", timeout=DEADLINE_S) as answer:
        seats: int = json.load(answer)["taken"]
        return seats


def port_taken() -> float:
    """1 where a server on a taken port says so and leaves; 0 otherwise."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "env_server.app", "--port", port],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    return float(done.returncode == 1 and f":{port}" in done.stderr and "--port" in done.stderr)


SERVERS: dict[str, Callable[[Sequence[Script]], Performance]] = {
    "server killed twice and started again": server_killed_and_started_again,
    "own server killed": own_server_killed,
    "one of two servers killed": one_of_two_servers_killed,
    "server frozen for longer than the deadline": server_frozen,
}


# -- the figures ---------------------------------------------------------------------------------


def road_figures(episodes: int) -> list[Figure]:
    wanted = scripts(TASK, episodes)
    figures = []
    for name, happen in SERVERS.items():
        figures += _played(name, happen(wanted))
    with Server() as server:
        for fault in FAULTS:
            figures += _played(f"answers {fault}", bad_answers(server.url, fault, wanted))
    return figures


def _played(name: str, seen: Performance) -> list[Figure]:
    print(f"{name}: {seen.seconds:.1f} s {seen.why}", file=sys.stderr, flush=True)
    n = seen.episodes
    return [
        Figure(f"{name}: wrong rewards", seen.wrong, "replies", n, "most", 0),
        Figure(f"{name}: lost", seen.lost, "episodes", n, "most", 0),
        Figure(f"{name}: longest turn", seen.longest_s, "s", n, "most", PATIENCE_S),
    ]


def peer_figures() -> list[Figure]:
    seen, free_s = slow_reader(scripts(TASK, 8))
    n = seen.episodes
    return [
        Figure("client killed: seat free after", client_killed(16), "s", 16, "most", 1.0),
        Figure("slow reader: wrong or lost beside it", seen.wrong + seen.lost, "", n, "most", 0),
        Figure("slow reader: longest turn beside it", seen.longest_s, "s", n, "most", DEADLINE_S),
        Figure("slow reader: its seat free after", free_s, "s", 1, "most", DEADLINE_S),
        Figure("port taken: said so", port_taken(), "times", 1, "least", 1),
    ]


def trainer_figures(kills: int, folder: Path) -> list[Figure]:
    from bench.full_disk import full_disk_figures
    from bench.kills import kill_figures, left_alone

    with left_alone(folder) as alone:
        return kill_figures(kills, alone) + full_disk_figures(alone)


def kept_kills() -> list[Figure]:
    """The kills of the committed record beside the promises of now: a quick page has no time for so many."""
    from bench.kills import recorded

    record = json.loads(RECORD.read_text("utf-8"))
    return recorded(record).figures(KILLS, f"record of {record['machine']['date']}: ")


def measure(quick: bool, kills: int, folder: Path) -> list[Figure]:
    figures = road_figures(8 if quick else 64) + peer_figures() + trainer_figures(kills, folder)
    if quick:
        figures += kept_kills()
    left = children(os.getpid())
    return [*figures, Figure("processes left behind", len(left), "processes", 1, "most", 0)]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description=__doc__)
    add = parser.add_argument
    add(
        "--quick", action="store_true", help="8 episodes a fault, 2 kills, and the record's of more"
    )
    add("--kills", type=int, help=f"how often a trainer is killed (default: {KILLS}; 2 if quick)")
    add("--folder", type=Path, help="keep the killed runs here; interrupted, it goes on from there")
    add("--json", action="store_true", help="print JSON with the machine")
    asked = parser.parse_args(argv)
    kills = asked.kills if asked.kills is not None else 2 if asked.quick else KILLS
    with tempfile.TemporaryDirectory(prefix="rounds-faults-") as temporary:
        figures = measure(asked.quick, kills, asked.folder or Path(temporary))
    seeds = f"train patients of {TASK} from 0; kills drawn from one stream"
    return report("bench.faults", figures, as_json=asked.json, seeds=seeds)


if __name__ == "__main__":
    sys.exit(main())
