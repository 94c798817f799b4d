"""A config says what it says, or says why not."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.loader import ConfigError, build, dump, load, overrides_of, parse


@dataclass(frozen=True)
class Optimizer:
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)


@dataclass(frozen=True)
class Run:
    name: str
    steps: int = 60
    shuffle: bool = True
    scale: Literal["batch", "group"] = "batch"
    tasks: tuple[str, ...] = ("review_easy",)
    cap: int | None = None
    share: dict[str, float] = field(default_factory=dict)
    out: Path = Path("runs")
    optimizer: Optimizer = field(default_factory=Optimizer)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; it must be at least 1")


def written(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_fills_the_dataclass_and_defaults_stay(tmp_path: Path) -> None:
    path = written(tmp_path, "name: demo\noptimizer:\n  lr: 3e-3\ntasks: [a, b]\nshare: {a: 1}\n")
    assert load(path, Run) == Run(
        "demo", tasks=("a", "b"), share={"a": 1.0}, optimizer=Optimizer(lr=0.003)
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 1e5),
        ("no", "no"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("2026-01-01", "2026-01-01"),
        ("012", 12),
        ("1_000", "1_000"),
        ("True", True),
        ("~", None),
        ("", None),
        (".5", 0.5),
        ("'1e-3'", "1e-3"),
    ],
)
def test_a_scalar_is_read_as_it_looks(text: str, value: object) -> None:
    read = overrides_of([f"x={text}"])["x"]
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: a\nstep: 5", ["run.yaml", "'step'", "did you mean 'steps'"]),
        ("name: a\noptimizer: {rl: 1}", ["'optimizer.rl'", "did you mean 'lr'"]),
        ("name: a\nsteps: many", ["steps", "'many'", "expected int"]),
        ("name: a\nsteps: 1.5", ["steps", "1.5", "expected int"]),
        ("name: a\nsteps: true", ["steps", "True", "expected int"]),
        ("name: a\nshuffle: 1", ["shuffle", "expected bool"]),
        ("name: a\ncap: x", ["cap", "expected int or nothing"]),
        ("name: a\nscale: rows", ["scale", "'rows'", "one of 'batch', 'group'"]),
        ("name: a\ntasks: [a, 2]", ["tasks[1]", "2", "expected str"]),
        ("name: a\ntasks: a", ["tasks", "'a'"]),
        ("name: a\noptimizer: {betas: [1]}", ["optimizer.betas", "[1]"]),
        ("name: a\noptimizer: 3", ["optimizer", "a mapping"]),
        ("name: a\nshare: {a: b}", ["share.a", "'b'", "expected float"]),
        ("steps: 5", ["name must be set"]),
        ("name: a\nsteps: 0", ["run.yaml", "at least 1"]),
        ("name: a\nname: b", ["line 2", "'name' is set twice"]),
        ("- a", ["holds list"]),
        ("name: [", ["not YAML"]),
        ("? [a, b]\n: c", ["not YAML", "unhashable"]),
    ],
)
def test_a_wrong_file_is_refused_by_file_key_and_value(
    tmp_path: Path, text: str, words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, text), Run)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_missing_file_names_the_ones_that_are_there(tmp_path: Path) -> None:
    written(tmp_path, "name: a")
    with pytest.raises(ConfigError, match=r"demo\.yaml.*holds: run\.yaml"):
        load(tmp_path / "demo.yaml", Run)


def test_overrides_win_and_reach_into_nested_groups(tmp_path: Path) -> None:
    path = written(tmp_path, "name: demo\nsteps: 5")
    run = load(path, Run, overrides_of(["steps=7", "optimizer.lr=1e-4", "cap=~"]))
    assert (run.steps, run.optimizer.lr, run.cap) == (7, 1e-4, None)


@pytest.mark.parametrize("setting", ["steps", "=5", "name.x=5"])
def test_an_override_that_leads_nowhere_is_refused(tmp_path: Path, setting: str) -> None:
    with pytest.raises(ConfigError, match="override"):
        load(written(tmp_path, "name: demo"), Run, overrides_of([setting]))


@given(
    name=st.text(),
    steps=st.integers(1),
    cap=st.none() | st.integers(),
    lr=st.floats(allow_nan=False),
    tasks=st.lists(st.text()),
)
def test_what_is_dumped_loads_back_equal(
    name: str,
    steps: int,
    cap: int | None,
    lr: float,
    tasks: list[str],
) -> None:
    run = Run(name, steps=steps, cap=cap, optimizer=Optimizer(lr), tasks=tuple(tasks))
    assert build(Run, parse(dump(run), "dumped")) == run


def test_a_dumped_line_separator_stays_one() -> None:
    run = Run("a\x85b\u2028c\u00b5", tasks=("\x85",))
    assert build(Run, parse(dump(run), "dumped")) == run


def test_build_checks_values_that_come_from_no_file() -> None:
    with pytest.raises(ConfigError, match="flags: unknown key 'nam'"):
        build(Run, {"nam": "x"}, source="flags")
