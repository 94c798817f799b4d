"""Settings every test runs under. Set here, before torch or a Hub client is imported by anything."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.update(
    OMP_NUM_THREADS="1",  # two threads on a busy machine are five times slower than one
    MKL_NUM_THREADS="1",
    OMP_WAIT_POLICY="PASSIVE",
    KMP_BLOCKTIME="0",
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TRL_EXPERIMENTAL_SILENCE="1",
    WANDB_MODE="offline",
)

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # as of a command that a script sent off with &
    signal.signal(signal.SIGINT, signal.default_int_handler)

# the same examples on every run and machine; how long one takes says more of the machine than of us
settings.register_profile("rounds", deadline=None, derandomize=True)
settings.load_profile("rounds")


def has_gpu() -> bool:
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return False
    return subprocess.run([smi, "-L"], capture_output=True, check=False).returncode == 0


WHOLLY_SLOW = re.compile(r"^pytestmark = .*pytest\.mark\.slow\b", re.MULTILINE)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave a file of slow tests alone unread where those are left out: some import for ten seconds."""
    if config.option.markexpr != "not slow" or collection_path.suffix != ".py":
        return None
    return True if WHOLLY_SLOW.search(collection_path.read_text(encoding="utf-8")) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not has_gpu():
        for item in marked:
            item.add_marker(
                pytest.mark.skip(reason="needs an NVIDIA GPU: nvidia-smi -L found none")
            )
