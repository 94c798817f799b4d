"""Trainers that need not import their libraries one by one: forks of a process that has done so once.

Importing takes ten times as long as the short runs that are killed here, and is the same every time. Each trainer
is still a process of its own that runs `training.grpo` from its flags on. Knows processes, not training.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from bench.processes import still_running

ROOT = Path(__file__).resolve().parents[1]


class Trainer:
    """One trainer, told apart by its pid; as much of Popen as is needed."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self._nursery, self.pid = nursery, pid
        self._code: int | None = None

    def poll(self) -> int | None:
        """Its exit code, minus the signal where it was killed; None while it runs."""
        if self._code is None and not still_running([self.pid], within_s=0.0):
            self._code = self._nursery.buried(self.pid)
        return self._code

    def wait(self, within_s: float) -> int:
        """Raises TimeoutError where it still runs after `within_s`."""
        ends = time.monotonic() + within_s
        while (code := self.poll()) is None:
            if time.monotonic() > ends:
                raise TimeoutError(f"process {self.pid} still runs after {within_s:.0f} s")
            time.sleep(0.01)
        return code

    def kill(self) -> None:
        if self._code is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


class Nursery:
    """The process that has imported everything; it ends, and its trainers with it, on leaving."""

    def __enter__(self) -> Nursery:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.warm"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"},
        )
        self._living: set[int] = set()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, it: BaseException | None, at: TracebackType | None
    ) -> None:
        for pid in self._living:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.communicate()  # its standard input closes, and it leaves

    def start(self, flags: Sequence[str], log: Path) -> Trainer:
        """`python -m training.grpo` with these flags; what it says is added to `log`."""
        pid = self._ask({"flags": list(flags), "log": str(log)})
        self._living.add(pid)
        return Trainer(self, pid)

    def buried(self, pid: int) -> int:
        """The exit code of a trainer that has ended."""
        self._living.discard(pid)
        return self._ask({"pid": pid})

    def _ask(self, request: dict[str, Any]) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process that starts trainers ended: {self._process.wait()}")
        return int(answer)


# -- the other side ------------------------------------------------------------------------------


def serve() -> None:
    """Answer requests from standard input: start a trainer, or bury one."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries say while they are imported is no answer
    import peft  # noqa: F401
    import trl.trainer.grpo_trainer  # noqa: F401

    from training import examiner, guards, importance, rollout, sft, watch  # noqa: F401

    for line in sys.stdin:
        asked = json.loads(line)
        if "pid" in asked:
            answer = os.waitstatus_to_exitcode(os.waitpid(asked["pid"], 0)[1])
        else:
            answer = os.fork() or _train(asked["flags"], Path(asked["log"]), answers)
        print(answer, file=answers, flush=True)


def _train(flags: list[str], log: Path, answers: IO[str]) -> int:
    """In the fork: be `python -m training.grpo`. Never returns."""
    from training.grpo import main

    os.close(answers.fileno())
    with log.open("ab") as said, open(os.devnull, "rb") as nothing:
        for ours, theirs in ((nothing.fileno(), 0), (said.fileno(), 1), (said.fileno(), 2)):
            os.dup2(ours, theirs)
    code = 1
    try:
        code = main(flags)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
