"""A run on disk: what was asked for, and every episode as soon as it is over.

`runs/<name>/` holds settings.json, seeds.json, episodes.jsonl and at the end table.json. Killing
the process loses at most the line being written. Knows files; nothing of agents or measures.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from env_server.contract import JsonObject, RoundsError, canonical
from eval.trajectory import Trajectory

RUNS = Path("runs")
EPISODES = "episodes.jsonl"
AGENTS = "agents.json"  # who played, where its folder is, and the command


class RunExists(RoundsError, FileExistsError):
    """A run of that name is there and --resume was not given."""


class RunDiffers(RoundsError, ValueError):
    """A run of that name was begun with other settings."""


class BadName(RoundsError, ValueError):
    """A run's name would lead out of runs/."""


class NoSuchRun(RoundsError, FileNotFoundError):
    """No episodes were kept where somebody looks for them."""


class BadLine(RoundsError, ValueError):
    """A line of an episodes.jsonl is not an episode."""


def folder_of(name: str) -> Path:
    """Where the run called `name` lies. Raises BadName where that is not below runs/."""
    given = Path(name)
    if given.is_absolute() or ".." in given.parts or not given.name:
        raise BadName(f"--run {name}: runs are kept in {RUNS}/; give a name, like --run mine")
    return RUNS / given


def episodes_of(given: Path) -> Path:
    """The episodes.jsonl that is meant: the file itself, a run's folder, or its name in runs/.

    Raises NoSuchRun with the runs there are.
    """
    for path in (given, given / EPISODES, RUNS / given / EPISODES):
        if path.is_file():
            return path
    kept = sorted(path.parent.name for path in RUNS.glob(f"*/{EPISODES}"))
    raise NoSuchRun(
        f"{given} is no {EPISODES} and no run that has one; {RUNS}/ has {', '.join(kept) or 'none'};"
        " python -m eval.compare --run NAME keeps one"
    )


class Record:
    """An open run folder. Use as a context manager; `add` writes a line and flushes it."""

    def __init__(self, folder: Path, settings: JsonObject, resume: bool = False) -> None:
        """Begin the run, or continue it. Raises RunExists, RunDiffers, or OSError (no permission)."""
        self.folder = folder
        self.dropped: str | None = None  # what was thrown away to continue, in words
        path = folder / "settings.json"
        if path.exists():
            if not resume:
                raise RunExists(
                    f"{folder} exists: add --resume to continue it, or choose another --run name"
                )
            begun = _begun(path)
            _same(folder, begun, settings)
            write_json(path, _with_newcomers(begun, settings))
            self.dropped = drop_torn_line(folder / EPISODES)
        else:
            if folder.exists() and not folder.is_dir():
                raise RunExists(f"{folder} is a file; choose another --run name")
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "versions.json", versions())
            write_json(path, settings)
        self._lines: IO[bytes] = (folder / EPISODES).open("ab")

    def __enter__(self) -> Record:
        return self

    def __exit__(self, *raised: object) -> None:
        self._lines.close()

    def add(self, trajectory: Trajectory) -> None:
        self._lines.write(canonical(trajectory.to_json()) + b"\n")
        self._lines.flush()

    def episodes(self) -> Iterator[Trajectory]:
        """What was played before, one at a time."""
        return read_episodes(self.folder / EPISODES)


def read_episodes(path: Path) -> Iterator[Trajectory]:
    """Every episode of the file, one at a time. Raises BadLine with its number, or OSError."""
    for number, line in numbered_lines(path):
        try:
            yield Trajectory.from_json(json.loads(line))
        except (ValueError, KeyError, TypeError) as wrong:
            raise BadLine(f"{path}, line {number}: not an episode ({wrong})") from wrong


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, line) of each line that is not empty."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, line


def drop_torn_line(path: Path) -> str | None:
    """Cut off a last line that was never finished; say so in words, or None where all is well."""
    if not path.exists():
        return None
    with path.open("rb+") as file:
        whole = _end_of_last_line(file)
        torn = file.seek(0, 2) - whole
        if not torn:
            return None
        file.truncate(whole)
    return f"{path}: the last line was cut off after {torn} bytes; dropped, its episode is played again"


def _end_of_last_line(file: IO[bytes], block: int = 1 << 16) -> int:
    """Where the last newline ends; 0 where there is none."""
    end = file.seek(0, 2)
    while end > 0:
        start = max(0, end - block)
        file.seek(start)
        at = file.read(end - start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0


def write_json(path: Path, body: object) -> None:
    path.write_text(json.dumps(body, indent=2, sort_keys=True) + "\n", "utf-8")


def versions() -> JsonObject:
    """What computed the numbers, for whoever repeats them."""
    return {
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "scipy": version("scipy"),
        "platform": platform.platform(),
    }


def _begun(path: Path) -> JsonObject:
    """The settings a run was begun with. Raises RunDiffers where they cannot be read any more."""
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (ValueError, TypeError, OSError) as error:
        raise RunDiffers(
            f"{path} cannot be read ({error}), so nothing says what the run was;"
            f" delete {path.parent}, or choose another --run name"
        ) from error


def _same(folder: Path, begun: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Whoever joins or stays away is welcome to; nothing else may differ, nor any player change."""
    now = json.loads(json.dumps(asked))
    _equal(folder, begun, now, {*begun, *now} - {"agents", "identities"})
    players = begun.get("identities", {}), now.get("identities", {})
    _equal(folder, *players, {*players[0]} & {*players[1]}, "the identity of ")


def _equal(
    folder: Path,
    begun: Mapping[str, Any],
    asked: Mapping[str, Any],
    keys: Iterable[str],
    what: str = "",
) -> None:
    for key in sorted(keys):
        if begun.get(key) != asked.get(key):
            raise RunDiffers(
                f"{folder} was begun with {what}{key} = {begun.get(key)!r}, not {asked.get(key)!r};"
                " use the same settings to continue it, or choose another --run name"
            )


def _with_newcomers(begun: Mapping[str, Any], asked: Mapping[str, Any]) -> JsonObject:
    names = dict.fromkeys([*begun.get("agents", []), *asked.get("agents", [])])
    known = {**begun.get("identities", {}), **asked.get("identities", {})}
    return {**begun, "agents": [*names], "identities": known}
