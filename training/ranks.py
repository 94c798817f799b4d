"""One command as several ranks on this machine: how both cores of a laptop are put to one training.

Knows processes, signals and torchrun's variables; what the ranks do is the command's business. A GPU
machine has `accelerate launch` for this.
"""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import IO, Any, TypeVar

from env_server.contract import RoundsError
from training.own_server import HOST, free_port
from training.progress import handed_to

T = TypeVar("T")
_RANK = "import sys; from training.ranks import be_a_rank as b; b(sys.argv[1:])"
_GLANCE_S = 0.1
_GRACE_S = 20.0  # for the others, once one has ended
_STDERR = 2
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # a core each
_LAST_WORDS = 2000  # characters
_SPOKEN = (2, 130)  # bad input, and stopped on request: every rank says the same, and rank 0 aloud


class RankEnded(RoundsError, RuntimeError):
    """A rank ended with an error; the others were stopped."""


def rank() -> int:
    """This process's place among those of its run; 0 where it is alone."""
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    """How many processes the run has."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def first_one_first(cpu: bool) -> Iterator[None]:
    """Rank 0 goes through the block before the others do: it makes what all of them then find."""
    if world() == 1:
        yield
        return
    from accelerate import PartialState

    with PartialState(cpu=cpu).main_process_first():
        yield


def in_order(own: Sequence[T]) -> list[T]:
    """Every rank's items, dealt out one by one from rank 0 on, back in one row."""
    if world() == 1:
        return list(own)
    from accelerate.utils import gather_object

    rows: list[list[T]] = gather_object([list(own)])
    longest = max(map(len, rows), default=0)
    return [row[at] for at in range(longest) for row in rows if at < len(row)]


def run(module: str, flags: Sequence[str], count: int) -> int:
    """Run `python -m module flags` as `count` ranks; the exit code, 130 where it was stopped on request.

    Rank 0 speaks, to stderr; of the others only the last words are shown, and only if one fails. Ctrl-C and
    SIGTERM are passed on to all, and everything started here ends before this returns, or with this
    process. Raises RankEnded where a rank fails that rank 0 does not speak for.
    """
    address = {"MASTER_ADDR": HOST, "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(count)}
    with ExitStack() as held:
        voices = [held.enter_context(tempfile.TemporaryFile()) for _ in range(count - 1)]
        ranks = [
            held.enter_context(_started(at, module, flags, address, voice))
            for at, voice in enumerate([None, *voices])
        ]

        def tell(number: int) -> None:
            for one in ranks:
                with suppress(ProcessLookupError):
                    one.send_signal(number)

        with handed_to(tell):  # they agree on the step after which they stop
            first = _first_to_fail(ranks)
        if first is None:
            return 0
        code = ranks[first].poll()
        if first and code not in _SPOKEN:
            words = _words(voices[first - 1])
            raise RankEnded(f"rank {first} of {module} ended with {code}: {words}")
        return int(code or 0)


def _first_to_fail(ranks: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Wait until all have ended, for a while only once one has failed; which one that was."""
    first, since_s = None, 0.0
    while any(one.poll() is None for one in ranks):
        time.sleep(_GLANCE_S)
        if first is None:
            first, since_s = _failed(ranks), time.monotonic()
        elif time.monotonic() - since_s > _GRACE_S:
            break
    return _failed(ranks) if first is None else first


def _failed(ranks: Sequence[subprocess.Popen[bytes]]) -> int | None:
    return next((at for at, one in enumerate(ranks) if one.poll()), None)


@contextmanager
def _started(
    at: int,
    module: str,
    flags: Sequence[str],
    address: dict[str, str],
    voice: IO[bytes] | None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Rank `at`, in a session of its own; ended on leaving. One without a `voice` has ours."""
    child = subprocess.Popen(
        [sys.executable, "-c", _RANK, module, *flags],
        env={**_ONE_THREAD, **os.environ, **address, "RANK": str(at), "LOCAL_RANK": str(at)},
        stdin=subprocess.PIPE,
        stdout=voice or _STDERR,  # stdout is for what the whole command has to say
        stderr=voice,
        start_new_session=True,
    )
    try:
        yield child
    finally:
        with suppress(ProcessLookupError):
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        assert child.stdin is not None
        child.stdin.close()


def _words(voice: IO[bytes]) -> str:
    voice.seek(0, os.SEEK_END)
    voice.seek(max(voice.tell() - _LAST_WORDS, 0))
    return voice.read().decode(errors="replace").strip() or "it said nothing"


def be_a_rank(argv: Sequence[str]) -> None:
    """The child's half of `run`: the module as `__main__`, gone when the parent is."""
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    module, *flags = argv
    sys.argv = [module, *flags]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _leave_with_parent() -> None:
    while os.read(0, 1):  # not sys.stdin, whose lock would be held when the interpreter ends
        pass
    os._exit(1)


def agree(wish: bool, device: Any = "cpu") -> bool:
    """Whether any rank has this wish; every rank must ask."""
    if world() == 1:
        return wish
    import torch
    import torch.distributed

    if not torch.distributed.is_initialized():
        return wish
    told = torch.tensor(int(wish), device=device)
    torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
    return bool(told.item())
