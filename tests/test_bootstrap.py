"""Setting up either works or says in plain words what is missing; it never leaves a half-built .venv marked ready."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with all that scripts/bootstrap reads, and an empty bin/ in front of PATH."""
    for folder in ("scripts", "requirements"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    (tmp_path / "bin").mkdir()
    return tmp_path


def fake(clone: Path, name: str, script: str) -> None:
    """A command of that name which does as `script` says."""
    path = clone / "bin" / name
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


def bootstrap(clone: Path, **env: str) -> subprocess.CompletedProcess[str]:
    path = f"{clone / 'bin'}{os.pathsep}{os.environ['PATH']}"
    asked = {"PYTHON": sys.executable, "ROUNDS_PROFILE": "env", "PATH": path, **env}
    return subprocess.run(
        ["bash", "scripts/bootstrap"],
        cwd=clone,
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def refused(answer: subprocess.CompletedProcess[str], *words: str) -> None:
    assert answer.returncode == 1, answer.stderr
    assert all(word in answer.stderr for word in words), answer.stderr


def test_an_unknown_profile_is_named_with_the_known_ones(clone: Path) -> None:
    refused(bootstrap(clone, ROUNDS_PROFILE="tpu"), "'tpu'", "env, cpu or gpu")


def test_an_old_python_is_refused_with_the_way_out(clone: Path) -> None:
    fake(clone, "python3.8", "exit 1")
    refused(bootstrap(clone, PYTHON="python3.8"), "no Python 3.11", "PYTHON=")


def test_a_full_disk_is_seen_before_anything_is_built(clone: Path) -> None:
    fake(clone, "df", "printf 'Filesystem blocks Used Available\\n/dev/x 9 9 1024\\n'")
    refused(bootstrap(clone), "wants 2 GB", "1 MB are free")
    assert not (clone / ".venv").exists()


def test_a_python_without_venv_says_what_to_install(clone: Path) -> None:
    for tool in ("bash", "dirname", "awk", "cat", "df", "rm"):  # a PATH that holds no uv
        (clone / "bin" / tool).symlink_to(str(shutil.which(tool)))
    fake(
        clone,
        "python3",
        f'case "$*" in *ensurepip*) exit 1 ;; esac\nexec "{sys.executable}" "$@"',
    )
    answer = bootstrap(clone, PYTHON="python3", PATH=str(clone / "bin"))
    refused(answer, "no venv module", "python3-venv")


@pytest.mark.slow
def test_a_failed_installation_is_never_marked_ready(clone: Path) -> None:
    (clone / "requirements" / "env.txt").write_text("rounds-no-such-package==0\n", encoding="utf-8")
    offline = {"PIP_NO_INDEX": "1", "UV_OFFLINE": "1", "PIP_FIND_LINKS": str(clone)}
    answer = bootstrap(clone, **offline)
    refused(answer, "requirements/env.txt failed", "find-links")
    assert not (clone / ".venv" / ".ok").exists()
