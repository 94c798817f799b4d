"""What the server counts, and the page `/metrics` that Prometheus reads.

Knows numbers with labels and the text format 0.0.4; nothing of what is counted. One thread, the
event loop's, does all counting.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from time import time
from typing import Final, Literal

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_STARTED: Final = time()

Labels = tuple[str, ...]


@dataclass(slots=True)
class Counter:
    """A number that only grows, one for each set of label values."""

    name: str
    help: str
    labels: Labels = ()
    values: dict[Labels, int] = field(default_factory=dict)

    def add(self, *values: str) -> None:
        self.values[values] = self.values.get(values, 0) + 1

    def lines(self) -> Iterator[str]:
        yield from _head(self.name, self.help, "counter")
        for values, n in self.values.items():
            yield f"{self.name}{_spelled(self.labels, values)} {n}"


@dataclass(slots=True)
class Histogram:
    """How long something took: how often at most each of SECONDS."""

    name: str
    help: str
    labels: Labels = ()
    counts: dict[Labels, list[int]] = field(default_factory=dict)
    sums: dict[Labels, float] = field(default_factory=dict)

    def add(self, seconds: float, *values: str) -> None:
        if values not in self.counts:
            self.counts[values] = [0] * (len(SECONDS) + 1)
        self.counts[values][bisect_left(SECONDS, seconds)] += 1
        self.sums[values] = self.sums.get(values, 0.0) + seconds

    def lines(self) -> Iterator[str]:
        yield from _head(self.name, self.help, "histogram")
        for values, counts in self.counts.items():
            total = 0
            for bound, n in zip((*map(str, SECONDS), "+Inf"), counts, strict=True):
                total += n
                labels = _spelled((*self.labels, "le"), (*values, bound))
                yield f"{self.name}_bucket{labels} {total}"
            yield f"{self.name}_sum{_spelled(self.labels, values)} {self.sums[values]:.9g}"
            yield f"{self.name}_count{_spelled(self.labels, values)} {total}"


@dataclass(slots=True)
class Read:
    """A number that is kept elsewhere, asked for when the page is read."""

    name: str
    help: str
    read: Callable[[], Mapping[Labels, float]]
    labels: Labels = ()
    kind: Literal["gauge", "counter"] = "gauge"

    def lines(self) -> Iterator[str]:
        yield from _head(self.name, self.help, self.kind)
        for values, value in self.read().items():
            yield f"{self.name}{_spelled(self.labels, values)} {value:.15g}"


@dataclass(slots=True)
class Metrics:
    """All that one server counts; what is kept elsewhere is read."""

    begun: Counter = field(
        default_factory=lambda: Counter(
            "rounds_episodes_begun_total", "Episodes begun.", ("family", "task")
        )
    )
    finished: Counter = field(
        default_factory=lambda: Counter(
            "rounds_episodes_finished_total", "Episodes played to their end.", ("family", "task")
        )
    )
    steps: Histogram = field(
        default_factory=lambda: Histogram(
            "rounds_step_seconds", "Wall time of a step inside the server.", ("family",)
        )
    )
    refusals: Counter = field(
        default_factory=lambda: Counter(
            "rounds_refusals_total", "Actions answered by a refusal.", ("family", "kind")
        )
    )
    turned_away: Counter = field(
        default_factory=lambda: Counter(
            "rounds_turned_away_total",
            "Requests and sockets not let in for their rate or size.",
            ("why",),
        )
    )
    errors: Counter = field(
        default_factory=lambda: Counter(
            "rounds_errors_total", "Errors of ours, told to the peer by their id.", ("door",)
        )
    )
    frames: Counter = field(
        default_factory=lambda: Counter(
            "rounds_socket_frames_total", "Frames answered on sockets.", ("family",)
        )
    )
    dropped: Counter = field(
        default_factory=lambda: Counter(
            "rounds_sockets_closed_total", "Sockets closed, by whom or why.", ("why",)
        )
    )
    requests: Counter = field(
        default_factory=lambda: Counter(
            "rounds_http_requests_total", "HTTP requests answered.", ("method", "status")
        )
    )
    read: list[Read] = field(default_factory=list)

    def page(self) -> str:
        """The exposition text."""
        kept: tuple[Counter | Histogram | Read, ...] = (
            *(self.begun, self.finished, self.steps, self.refusals, self.turned_away),
            *(self.errors, self.frames, self.dropped, self.requests),
            *self.read,
            *PROCESS,
        )
        lines = [line for one in kept for line in one.lines()]
        return "\n".join(lines) + "\n"


def _head(name: str, help: str, kind: str) -> tuple[str, str]:
    return f"# HELP {name} {help}", f"# TYPE {name} {kind}"


def _spelled(labels: Labels, values: Labels) -> str:
    if not labels:
        return ""
    pairs = zip(labels, values, strict=True)
    return "{" + ",".join(f'{label}="{_escaped(value)}"' for label, value in pairs) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def resident_bytes() -> Mapping[Labels, float]:
    """Memory this process holds now; nothing where the system does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return {(): int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")}
    except OSError:
        return {}


PROCESS: Final = (
    Read("process_resident_memory_bytes", "Memory held.", resident_bytes),
    Read("process_start_time_seconds", "Start, in Unix time.", lambda: {(): _STARTED}),
)
