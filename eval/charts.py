"""Five pictures of a table, drawn as SVG that a page can hold: intervals, strips, costs, reliability, curves.

Knows coordinates, ticks and labels; colours are classes, so that one stylesheet serves light, dark
and print. Nothing of runs or files. All text is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10, sqrt

from markupsafe import Markup

from eval.calibration import Bin

WIDTH = 360.0  # of every picture, in units that a phone shows as pixels
LEFT, RIGHT, TOP, BOTTOM = 112.0, 52.0, 8.0, 24.0
ROW = 24.0
SYMBOLS = {  # around (0, 0): a role is told by its shape where colours cannot be
    "random": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
    "canary": "M0 -5L5 4H-5z",
    "heuristic": "M-4 -4H4V4H-4z",
    "reference": "M0 -5.5L5.5 0L0 5.5L-5.5 0z",
    "model": "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z",
}


@dataclass(frozen=True, slots=True)
class Mark:
    """One agent's value with its interval; `beside` and `under` are written at the end of its row."""

    label: str
    role: str
    value: float
    low: float | None = None
    high: float | None = None
    beside: str = ""
    under: str = ""


@dataclass(frozen=True, slots=True)
class Strip:
    """One agent's difference on every patient, around their mean."""

    mark: Mark
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Spent:
    """One agent's cost and what it reached by it."""

    mark: Mark
    cost: float


@dataclass(frozen=True, slots=True)
class Curve:
    """A series over training; `kind` is noisy, smooth or looks."""

    label: str
    kind: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Scale:
    """Values in [low, high] laid from `start` to `end`; logarithmic where asked."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = log10(low), log10(high), log10(value)
        return self.start + (self.end - self.start) * (at - low) / (high - low)

    def ticks(self) -> list[float]:
        if self.log:
            powers = range(floor(log10(self.low)), ceil(log10(self.high)) + 1)
            found = [m * 10.0**p for p in powers for m in (1, 2, 5)]
            inside = [t for t in found if self.low <= t <= self.high]
            return inside if len(inside) <= 6 else inside[:: len(inside) // 5]
        step = nice_step((self.high - self.low) / 6)
        first = ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, floor(self.high / step + 1e-9) + 1)]


def nice_step(rough: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is at least `rough`."""
    power = 10.0 ** floor(log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))


def around(
    values: Iterable[float], least: float, within: tuple[float, float]
) -> tuple[float, float]:
    """A range holding all values with some room, at least `least` wide, inside `within` if they are."""
    kept = list(values)
    low, high = min(kept), max(kept)
    room = max((high - low) * 0.06, (least - (high - low)) / 2)
    low = min(low, max(low - room, within[0]))
    high = max(high, min(high + room, within[1]))
    return (low, high) if high > low else (low - least / 2, high + least / 2)


def intervals(marks: Sequence[Mark], baseline: float | None, title: str) -> Markup:
    """A row an agent: its mean and interval. `baseline` is drawn as a line through all rows."""
    ends = [v for m in marks for v in (m.value, m.low, m.high) if v is not None]
    x = Scale(*around(ends, 0.1, (0.0, 1.0)), LEFT, WIDTH - RIGHT)
    parts = _grid(x, len(marks) * ROW)
    if baseline is not None:
        parts.append(_line(x(baseline), TOP, x(baseline), TOP + len(marks) * ROW, "baseline"))
    for row, mark in enumerate(marks):
        y = TOP + (row + 0.5) * ROW
        parts += [_label(mark, y), _interval(mark, x, y), _beside(mark, y)]
    return _picture(parts, TOP + len(marks) * ROW + BOTTOM, title)


def strips(rows: Sequence[Strip], title: str) -> Markup:
    """A row an agent: a dot a patient, stacked where they agree; the mean and its interval above."""
    tall = 40.0
    far = max((abs(v) for strip in rows for v in strip.values), default=0.0) or 0.1
    x = Scale(-far * 1.04, far * 1.04, LEFT, WIDTH - RIGHT)
    parts = _grid(x, len(rows) * tall)
    parts.append(_line(x(0), TOP, x(0), TOP + len(rows) * tall, "baseline"))
    for row, strip in enumerate(rows):
        y = TOP + (row + 0.5) * tall
        dots = _swarm([x(v) for v in strip.values], y, tall / 2 - 5)
        parts += [dots, _label(strip.mark, y), _interval(strip.mark, x, y), _beside(strip.mark, y)]
    return _picture(parts, TOP + len(rows) * tall + BOTTOM, title)


def costs(spent: Sequence[Spent], unit: str, title: str, log: bool = False) -> Markup:
    """Score against cost, each agent labelled where there is room."""
    high, left = 250.0, 40.0
    ends = [v for s in spent for v in (s.mark.value, s.mark.low, s.mark.high) if v is not None]
    y = Scale(*around(ends, 0.1, (0.0, 1.0)), TOP + high, TOP + 8)
    prices = [s.cost for s in spent]
    log = log and max(prices) > 10 * min(prices)
    span = (min(prices) / 1.5, max(prices) * 2) if log else around(prices, 1.0, (0.0, 1e12))
    x = Scale(*span, left, WIDTH - 16, log)
    parts = [_line(left, y(t), WIDTH - 8, y(t), "grid") for t in y.ticks()]
    parts += [_text(left - 6, y(t) + 4, _short(t), "tick end") for t in y.ticks()]
    parts += [_text(x(t), TOP + high + 16, _short(t), "tick middle") for t in x.ticks()]
    parts.append(_text((left + WIDTH) / 2, TOP + high + 32, unit, "tick middle"))
    for s in spent:
        parts.append(_whisker(s.mark, x(s.cost), y))
        parts.append(_symbol(s.mark, x(s.cost), y(s.mark.value)))
    placed = _placed([(x(s.cost), y(s.mark.value), s.mark.label) for s in spent], left)
    parts += [
        _text(*at, _cut(s.mark.label, 22), f"name {end}")
        for (at, end), s in zip(placed, spent, strict=True)
    ]
    return _picture(parts, TOP + high + 42, title)


def curves(series: Sequence[Curve], unit: str, title: str) -> Markup:
    """Lines over training steps, and dots where the policy was looked at."""
    high, left = 200.0, 44.0
    xs = [px for c in series for px, _ in c.points]
    ys = [py for c in series for _, py in c.points]
    x = Scale(min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1, left, WIDTH - 16)
    y = Scale(*around(ys, 1e-3, (-1e12, 1e12)), TOP + high, TOP + 4)
    parts = [_line(left, y(t), WIDTH - 8, y(t), "grid") for t in y.ticks()]
    parts += [_text(left - 6, y(t) + 4, _short(t), "tick end") for t in y.ticks()]
    parts += [_text(x(t), TOP + high + 16, _short(t), "tick middle") for t in x.ticks()]
    parts.append(_text((left + WIDTH) / 2, TOP + high + 32, unit, "tick middle"))
    for curve in series:
        path = "M" + "L".join(f"{x(px):.1f} {y(py):.1f}" for px, py in curve.points)
        parts.append(Markup('<path class="curve {}" d="{}"/>').format(curve.kind, path))
        if curve.kind == "looks":
            dots = "".join(f"M{x(px):.1f} {y(py):.1f}h0" for px, py in curve.points)
            parts.append(Markup('<path class="dots looks" d="{}"/>').format(dots))
    return _picture(parts, TOP + high + 42, title)


def reliability(bins: Sequence[Bin], role: str, title: str) -> Markup:
    """Stated chance against what came true, a circle a bin, as large as it holds many; on the line is honest."""
    side, left = 200.0, 60.0
    x, y = Scale(0, 1, left, left + side), Scale(0, 1, TOP + side, TOP)
    ticks = (0.0, 0.25, 0.5, 0.75, 1.0)
    parts = [_line(left, y(t), left + side, y(t), "grid") for t in ticks]
    parts += [_text(left - 6, y(t) + 4, _short(t), "tick end") for t in ticks]
    parts += [_text(x(t), TOP + side + 16, _short(t), "tick middle") for t in ticks]
    parts.append(_line(x(0), y(0), x(1), y(1), "baseline"))
    parts.append(
        _text(left + side / 2, TOP + side + 32, "stated, against came true", "tick middle")
    )
    total = sum(n for n, _, _ in bins)
    for n, stated, true in bins:
        told = f"{n} forecasts: stated {stated:.2f}, came true {true:.2f}"
        circle = Markup('<circle class="mark {}" cx="{:.1f}" cy="{:.1f}" r="{:.1f}">')
        parts.append(circle.format(role, x(stated), y(true), 3 + 12 * sqrt(n / total)))
        parts.append(Markup("<title>{}</title></circle>").format(told))
    return _picture(parts, TOP + side + 42, title)


def symbol(role: str) -> Markup:
    """The role's mark alone, for a legend."""
    shape = SYMBOLS.get(role, SYMBOLS["model"])
    return Markup(
        '<svg class="key" viewBox="-7 -7 14 14" width="14" height="14" aria-hidden="true">'
        '<path class="mark {}" d="{}"/></svg>'
    ).format(role, shape)


# -- pieces ------------------------------------------------------------------------------------


def _picture(parts: Sequence[Markup], height: float, title: str) -> Markup:
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
    ).format(int(WIDTH), int(height), title, Markup("").join(parts))


def _grid(x: Scale, height: float) -> list[Markup]:
    parts = [_line(x(t), TOP, x(t), TOP + height, "grid") for t in x.ticks()]
    return parts + [_text(x(t), TOP + height + 16, _short(t), "tick middle") for t in x.ticks()]


def _interval(mark: Mark, x: Scale, y: float) -> Markup:
    whisker = Markup("")
    if mark.low is not None and mark.high is not None:
        whisker = _line(x(mark.low), y, x(mark.high), y, f"whisker {mark.role}")
    return whisker + _symbol(mark, x(mark.value), y)


def _whisker(mark: Mark, x: float, y: Scale) -> Markup:
    if mark.low is None or mark.high is None:
        return Markup("")
    return _line(x, y(mark.low), x, y(mark.high), f"whisker {mark.role}")


def _symbol(mark: Mark, x: float, y: float) -> Markup:
    return Markup(
        '<path class="mark {}" transform="translate({:.1f} {:.1f})" d="{}"><title>{}</title></path>'
    ).format(mark.role, x, y, SYMBOLS.get(mark.role, SYMBOLS["model"]), _told(mark))


def _told(mark: Mark) -> str:
    if mark.low is None or mark.high is None:
        return f"{mark.label}: {mark.value:.3f}"
    return f"{mark.label}: {mark.value:.3f}, 95 % interval {mark.low:.3f} to {mark.high:.3f}"


def _label(mark: Mark, y: float) -> Markup:
    return Markup('<text class="name end" x="{}" y="{:.1f}">{}<title>{}</title></text>').format(
        int(LEFT) - 8, y + 4, _cut(mark.label, 16), mark.label
    )


def _beside(mark: Mark, y: float) -> Markup:
    x = WIDTH - RIGHT + 8
    if not mark.under:
        return _text(x, y + 4, mark.beside, "value")
    return _text(x, y - 1, mark.beside, "value") + _text(x, y + 13, mark.under, "tick")


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return Markup('<path class="{}" d="M{:.1f} {:.1f}L{:.1f} {:.1f}"/>').format(
        kind, x1, y1, x2, y2
    )


def _text(x: float, y: float, text: str, kind: str) -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(kind, x, y, text)


def _swarm(xs: Sequence[float], y: float, room: float, width: float = 2.2) -> Markup:
    """Dots that would lie on one another are stacked around `y`, closer where there are many."""
    columns: dict[int, int] = {}
    for x in xs:
        columns[round(x / width)] = columns.get(round(x / width), 0) + 1
    apart = min(width, 2 * room / max(columns.values(), default=1))
    dots = [
        f"M{column * width:.1f} {y + (i - (n - 1) / 2) * apart:.1f}h0"
        for column, n in sorted(columns.items())
        for i in range(n)
    ]
    return Markup('<path class="dots" d="{}"/>').format("".join(dots))


def _placed(
    points: Sequence[tuple[float, float, str]], left: float
) -> list[tuple[tuple[float, float], str]]:
    """((x, y), anchor) of each label: right of its mark, or left, or moved until it touches no other."""
    boxes = [(px - 5, py + 4, 10.0) for px, py, _ in points]  # no label on another one's mark
    found: list[tuple[tuple[float, float], str]] = []
    for px, py, label in points:
        wide = 6.3 * len(_cut(label, 22))
        sides = [(px + 9, "start"), (px - 9 - wide, "end")]
        moves = sorted((step * 7.0 for step in range(-14, 15)), key=abs)
        options = [
            (x, py + 4 + move, side)
            for move in moves
            for x, side in sides
            if x + wide <= WIDTH and x >= left - 4 and 12 <= py + move <= 262
        ]
        fits = (o for o in options if not any(_touch(o, wide, box) for box in boxes))
        x, y, side = next(fits, (px + 9, py + 4, "start"))
        boxes.append((x, y, wide))
        found.append(((x if side == "start" else x + wide, y), side))
    return found


def _touch(option: tuple[float, float, str], wide: float, box: tuple[float, float, float]) -> bool:
    x, y, _ = option
    return abs(y - box[1]) < 12 and x < box[0] + box[2] + 4 and box[0] < x + wide + 4


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _short(value: float) -> str:
    """A tick's number without noise: 0.25, 1.5, 2k."""
    if abs(value) >= 1000:
        return f"{value / 1000:g}k"
    return f"{round(value, 6):g}"
