"""An environment that costs nothing, behind our server and behind stock OpenEnv's.

What is measured on it is the server: the same counter, the same 0.2 kB observation, the same messages.
`python -m bench.light ours|stock|stock-async` serves it; openenv is imported by the process it starts.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from env_server.contract import NOTHING, Action, Encoding, Episode, JsonObject, Refusal, Step, Task

NOTE: Final = "a line of words about as long as what an agent reads of one moment; it never changes"
TASK: Final = Task("count", "tick", "easy", 10**9, "count up", splits=("train",))


@dataclass(frozen=True, slots=True)
class Tick:
    """tick, by some amount."""

    by: int

    def to_json(self) -> JsonObject:
        return {"action_type": "tick", "by": self.by}


@dataclass(frozen=True, slots=True)
class Seen:
    count: int

    def to_json(self) -> JsonObject:
        return {"count": self.count, "note": NOTE, "told": [1, 2, 3], "open": True}


@dataclass(slots=True)
class Counting:
    """An episode that never ends."""

    seed: int
    split: str = "train"
    episode_id: str = "tick"
    task: Task = TASK
    done: bool = False
    steps: int = 0
    count: int = 0

    def observe(self) -> Seen:
        return Seen(self.count)

    def legal_actions(self) -> Sequence[Action]:
        return (Tick(1),)

    def step(self, action: Action | Refusal) -> Step:
        self.steps += 1
        if isinstance(action, Tick):
            self.count += action.by
        return Step(Seen(self.count), 0.5, {"tick": 0.5}, False)

    def score(self) -> float:
        return 0.5

    def outcome(self) -> Mapping[str, Any]:
        return NOTHING

    def state(self) -> JsonObject:
        return {"episode_id": self.episode_id, "step_count": self.steps}

    def copy(self) -> Episode:
        return Counting(self.seed, steps=self.steps, count=self.count)


@dataclass(slots=True)
class TickFamily:
    """The family of the one task."""

    name: str = "tick"
    version: str = "1"
    summary: str = "Counts."
    default_task: str = "count"
    tasks: Mapping[str, Task] = field(default_factory=lambda: {"count": TASK})
    agents: Mapping[str, Any] = field(default_factory=dict)

    def begin(self, task: str | None = None, seed: int = 0, split: str = "train") -> Episode:
        return Counting(seed)

    def action_from_json(self, payload: object) -> Action | Refusal:
        if isinstance(payload, Mapping) and isinstance(payload.get("by"), int):
            return Tick(payload["by"])
        return Refusal("malformed", "by must be a whole number")

    def action_schema(self) -> JsonObject:
        properties = {"action_type": {"const": "tick"}, "by": {"type": "integer"}}
        return {"type": "object", "properties": properties, "required": ["action_type", "by"]}

    def observation_schema(self) -> JsonObject:
        return {"type": "object", "properties": {}}

    def encoding(self, task: str, name: str = "default") -> Encoding:
        raise NotImplementedError("nothing is trained on it")


# a plain OpenEnv environment as its documentation shows one, and the same with async verbs
STOCK: Final = """
import asyncio, socket, sys
import uvicorn
from openenv.core.env_server.http_server import create_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State

class Tick(Action):
    action_type: str = "tick"
    by: int

class Seen(Observation):
    count: int
    note: str
    told: list[int]
    open: bool

class Counting(Environment):
    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self):
        super().__init__()
        self._state = State(episode_id="tick", step_count=0)
        self._count = 0

    def _seen(self, reward):
        return Seen(count=self._count, note=NOTE, told=[1, 2, 3], open=True, done=False, reward=reward)

    def reset(self, seed=None, episode_id=None, **kwargs):
        return self._seen(None)

    def step(self, action, timeout_s=None, **kwargs):
        self._state.step_count += 1
        self._count += action.by
        return self._seen(0.5)

    @property
    def state(self):
        return self._state

class CountingAsync(Counting):
    async def reset_async(self, seed=None, episode_id=None, **kwargs):
        return self.reset(seed, episode_id)

    async def step_async(self, action, timeout_s=None, **kwargs):
        return self.step(action)

def rounds():
    from env_server import adapter
    models = [m("polypharmacy") for m in (adapter.action_model, adapter.observation_model)]
    class Sync(adapter.RoundsEnvironment):
        # as anybody's environment: plain verbs, a thread a session
        reset_async, step_async = Environment.reset_async, Environment.step_async
    return Sync, *models

kinds = {"stock": lambda: (Counting, Tick, Seen), "stock-async": lambda: (CountingAsync, Tick, Seen),
         "stock-rounds": rounds}
app = create_app(*kinds[sys.argv[1]](), max_concurrent_envs=2000)
listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
print("listens on http://127.0.0.1:%d" % listener.getsockname()[1], flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listener])
"""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.light", description=__doc__)
    parser.add_argument("which", choices=("ours", "stock", "stock-async", "stock-rounds"))
    which = parser.parse_args(argv).which
    if which != "ours":
        script = STOCK.replace("NOTE", repr(NOTE))
        os.execv(sys.executable, [sys.executable, "-c", script, which])
    from env_server.app import create_app
    from env_server.process import Manners, listen, serve

    app = create_app("tick", capacity=2000, families=[TickFamily()])
    listener = listen("127.0.0.1", 0)
    print(f"listens on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    return serve(app, listener, Manners(), "error")


if __name__ == "__main__":
    sys.exit(main())
