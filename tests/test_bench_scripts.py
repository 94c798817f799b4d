"""The page of promises leaves no script out, and asks each of them for what it understands."""

from __future__ import annotations

import ast
import json
from importlib import import_module
from pathlib import Path

import pytest

from bench import faults
from bench.all import SCRIPTS
from bench.proofs import FAMILIES, NARROWED, PROVED, PROVED_QUICKLY
from env_server import registry

BENCH = Path(__file__).resolve().parents[1] / "bench"


def reports(module: Path) -> bool:
    """Whether a module ends in bench.promise.report, as each does whose figures have promises."""
    calls = (node for node in ast.walk(ast.parse(module.read_text("utf-8"))) if _calls(node))
    return next(calls, None) is not None


def _calls(node: ast.AST) -> bool:
    called = node.func if isinstance(node, ast.Call) else None
    return isinstance(called, ast.Name) and called.id == "report"


def test_every_script_that_reports_figures_is_on_the_page_and_no_other() -> None:
    on_the_page = [script.name for script in SCRIPTS]
    assert sorted(on_the_page) == sorted(p.stem for p in BENCH.glob("*.py") if reports(p))


NEEDS_TORCH = ("bandit",)  # to be imported
EDITIONS = [
    pytest.param(s.name, flags, marks=[pytest.mark.slow] * (s.name in NEEDS_TORCH))
    for s in SCRIPTS
    for flags in sorted({s.quick, s.whole})
]


@pytest.mark.parametrize(("name", "flags"), EDITIONS)
def test_every_script_understands_the_flags_of_both_editions(
    name: str, flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    if name in NEEDS_TORCH:
        pytest.importorskip("torch", reason="the train extra is not installed")
    with pytest.raises(SystemExit):
        import_module(f"bench.{name}").main([*flags, "--json", "--unheard-of"])
    assert capsys.readouterr().err.strip().endswith("unrecognized arguments: --unheard-of")


def test_what_times_processor_seconds_has_the_machine_to_itself() -> None:
    timed = {"environment", "drug_target", "reinforce", "server", "rollout", "gpu_grpo"}
    assert {s.name for s in SCRIPTS if not s.aside} == timed
    aside = [script.aside for script in SCRIPTS]
    assert aside == sorted(aside)  # and is over before the others begin


def test_a_quick_proof_leaves_out_no_test_no_task_and_no_family() -> None:
    named = {name for tests in PROVED.values() for name in tests}
    assert set(NARROWED) <= named
    for family in registry.names():  # the cases of these tests are named after task and split
        assert all(
            set(NARROWED.values()) <= set(t.splits) for t in registry.get(family).tasks.values()
        )
    assert set(PROVED_QUICKLY) == set(FAMILIES) <= set(registry.names())
    for family, tasks in PROVED_QUICKLY.items():
        assert set(tasks) <= set(registry.get(family).tasks)


def test_the_records_kills_are_told_as_such_and_judged_by_the_promises_of_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = faults.kept_kills()
    date = json.loads(faults.RECORD.read_text("utf-8"))["machine"]["date"]
    assert kept and all(figure.name.startswith(f"record of {date}: ") for figure in kept)
    assert next(f for f in kept if f.name.endswith("trainer killed")).bound == faults.KILLS
    record = json.loads(faults.RECORD.read_text("utf-8"))
    for figure in record["figures"]:
        if figure["name"] == "trainer killed: runs with other weights":
            figure |= {"value": 1, "kept": True}
    other = tmp_path / "faults.json"
    other.write_text(json.dumps(record), "utf-8")
    monkeypatch.setattr(faults, "RECORD", other)
    assert [f.name for f in faults.kept_kills() if not f.kept] == [
        f"record of {date}: trainer killed: runs with other weights"
    ]
