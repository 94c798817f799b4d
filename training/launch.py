"""One command for a run with a vLLM server: the server on some GPUs, the trainer on the others.

Starts the server, waits until it is healthy, starts the trainer, forwards what both say, and ends
whatever is left when either is over. Knows processes and their health; the commands come from
`plan`, and what they do is TRL's and `training.grpo`'s business.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from configs.loader import ConfigError, read
from env_server.contract import RoundsError
from training.progress import handed_to

_GRACE_S = 15.0
_POLL_S = 0.2


class LaunchFailed(RoundsError, RuntimeError):
    """A part of the launch did not come up, or ended on its own."""


@dataclass(frozen=True, slots=True)
class Command:
    """One process: how it is called in the log, what is run, and what it gets beside the environment."""

    name: str
    words: tuple[str, ...]
    environment: Mapping[str, str]

    def __str__(self) -> str:
        settings = " ".join(f"{key}={value}" for key, value in self.environment.items())
        return f"{settings} {shlex.join(self.words)}".strip()


def plan(
    config: Path,
    gpus: Sequence[str],
    serving: int,
    port: int,
    accelerate: Path | None = None,
    flags: Sequence[str] = (),
) -> tuple[Command, Command]:
    """(the vLLM server, the trainer) for these GPUs, of which the last `serving` generate.

    flags: handed to training.grpo as they are. Raises ConfigError where the GPUs do not suffice or
    the config names no model.
    """
    values = read(str(config))
    if not 0 < port < 65536:
        raise ConfigError(f"--port {port} is no port; ports are 1 to 65535")
    if accelerate is not None and not accelerate.is_file():
        raise ConfigError(f"--accelerate {accelerate}: no such file; configs/accelerate has some")
    if not 0 < serving < len(gpus):
        raise ConfigError(
            f"--serving {serving} of {len(gpus)} GPUs ({', '.join(gpus) or 'none'}):"
            " the server and the trainer need at least one each; see --gpus"
        )
    model = _flag(flags, "model") or values.get("model")
    if not model:
        raise ConfigError(f"{config} names no model; add `model:` or --model")
    training, generating = list(gpus[:-serving]), list(gpus[-serving:])
    server = Command(
        "vllm",
        (
            sys.executable,
            "-m",
            "trl.cli",
            "vllm-serve",
            *_serve_flags(values, model, port, serving),
        ),
        {"CUDA_VISIBLE_DEVICES": ",".join(generating)},
    )
    launcher: tuple[str, ...] = ("-m", "accelerate.commands.launch")
    launcher += ("--config_file", str(accelerate)) if accelerate else ("--mixed_precision", "bf16")
    launcher += ("--num_processes", str(len(training)), "-m", "training.grpo")
    through: tuple[str, ...] = ("--use_vllm", "true", "--vllm_mode", "server")
    through += ("--vllm_server_base_url", f"http://127.0.0.1:{port}")
    trainer = Command(
        "grpo",
        (sys.executable, *launcher, "--config", str(config), *through, *flags),
        {"CUDA_VISIBLE_DEVICES": ",".join(training)},
    )
    return server, trainer


def _serve_flags(values: Mapping[str, Any], model: str, port: int, serving: int) -> tuple[str, ...]:
    told: tuple[str, ...] = (
        "--model",
        str(model),
        "--port",
        str(port),
        "--tensor_parallel_size",
        str(serving),
    )
    if "context_tokens" in values:
        told += ("--max_model_len", str(values["context_tokens"]))
    if "vllm_gpu_memory_utilization" in values:
        told += ("--gpu_memory_utilization", str(values["vllm_gpu_memory_utilization"]))
    return told


def _flag(flags: Sequence[str], name: str) -> str | None:
    for at, word in enumerate(flags):
        if word == f"--{name}" and at + 1 < len(flags):
            return flags[at + 1]
        if word.startswith(f"--{name}="):
            return word.partition("=")[2]
    return None


def run(server: Command, trainer: Command, url: str, wait_s: float = 900.0) -> int:
    """The trainer's exit code, with a healthy server for as long as it runs.

    Ctrl-C and SIGTERM are passed on, once, and everything started here ends before this returns.
    Raises LaunchFailed where the server ends or does not become healthy within `wait_s`.
    """
    _demand_free(url)
    with _started(server) as serving:
        _await(serving, server, url, wait_s)
        with _started(trainer) as learning, handed_to(partial(_signal, learning)):
            while learning.poll() is None:
                if serving.poll() is not None:
                    raise LaunchFailed(
                        f"{server.name} ended with code {serving.returncode} while the trainer ran;"
                        " the trainer was stopped. The same command goes on from its last checkpoint"
                    )
                time.sleep(_POLL_S)
            return int(learning.returncode)


def _demand_free(url: str) -> None:
    """Raise LaunchFailed where somebody listens already: its health would be taken for our server's."""
    where = urlsplit(url)
    try:
        with socket.create_connection((where.hostname or "", where.port or 80), timeout=2.0):
            pass
    except OSError:
        return
    raise LaunchFailed(
        f"port {where.port} is taken: choose another with --port, or end what listens"
    )


def _await(child: subprocess.Popen[str], command: Command, url: str, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise LaunchFailed(
                f"{command.name} ended with code {child.returncode} before it was healthy;"
                f" what it said stands above. It was: {command}"
            )
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2.0) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):  # not listening yet
            pass
        time.sleep(_POLL_S)
    raise LaunchFailed(
        f"{command.name}: no answer from {url}/health in {wait_s:.0f} s; a large model may need"
        " longer: --wait"
    )


@contextmanager
def _started(command: Command) -> Iterator[subprocess.Popen[str]]:
    """The running process, its words forwarded with its name; its whole group ended on leaving."""
    child = subprocess.Popen(
        command.words,
        env={**os.environ, **command.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    voice = threading.Thread(target=_forward, args=(child, command.name), daemon=True)
    voice.start()
    try:
        yield child
    finally:
        _end(child)
        voice.join(timeout=2.0)
        if child.stdout is not None:
            child.stdout.close()


def _forward(child: subprocess.Popen[str], name: str) -> None:
    assert child.stdout is not None
    for line in child.stdout:
        print(f"[{name}] {line}", end="", file=sys.stderr, flush=True)


def _signal(child: subprocess.Popen[str], number: int) -> None:
    """To the trainer's whole group, which saves a checkpoint and leaves."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)


def _end(child: subprocess.Popen[str]) -> None:
    """End the child's whole group, however many children it had of its own."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, sign)
        try:
            child.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            continue
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


# -- the command -------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    asked, flags = arguments().parse_known_args(argv)
    try:
        gpus = _visible() if asked.gpus is None else [g for g in asked.gpus.split(",") if g]
        server, trainer = plan(
            asked.config, gpus, asked.serving, asked.port, asked.accelerate, flags
        )
        if asked.dry_run:
            print(f"{server}\n{trainer}")
            return 0
        if find_spec("vllm") is None:
            raise LaunchFailed("vllm is not installed: pip install 'rounds[gpu]'")
        return run(server, trainer, f"http://127.0.0.1:{asked.port}", asked.wait)
    except (ConfigError, RoundsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.launch",
        description="GRPO with a vLLM server beside it: the last GPUs generate, the others train.",
        epilog="Any further flag goes to training.grpo, e.g. --max_steps 50."
        " Stopped at any point, the same command goes on from the last checkpoint.",
    )
    add = parser.add_argument
    add(
        "--config",
        type=Path,
        required=True,
        help="a GRPO config, e.g. configs/grpo/multi_node.yaml",
    )
    add("--gpus", help="GPUs by number, e.g. 0,1,2,3 (default: all that are visible)")
    add("--serving", type=int, default=1, help="how many of them generate (default: %(default)s)")
    add("--port", type=int, default=8000, help="of the vLLM server (default: %(default)s)")
    add("--accelerate", type=Path, help="an accelerate config, e.g. configs/accelerate/zero3.yaml")
    add(
        "--wait",
        type=float,
        default=900.0,
        help="seconds for the server to come up (default: %(default)s)",
    )
    add("--dry-run", action="store_true", help="print the two commands and start nothing")
    return parser


def _visible() -> list[str]:
    """GPUs this process may use, as CUDA_VISIBLE_DEVICES or nvidia-smi tells."""
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    if told:
        return [gpu for gpu in told.split(",") if gpu]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return []
    return [str(i) for i, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]


if __name__ == "__main__":
    raise SystemExit(main())
