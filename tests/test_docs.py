"""The pages say what the code does: generated ones are fresh, commands and tasks all appear."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from env_server import catalogue, registry

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))


def test_the_catalogue_of_environments_is_fresh() -> None:
    page = (ROOT / "docs" / "environments.md").read_text(encoding="utf-8")
    assert page == catalogue.catalogue(), (
        "run: python -m env_server.catalogue > docs/environments.md"
    )


def test_readme_names_every_task_and_every_room() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tasks = {t for name in registry.names() for t in registry.get(name).tasks}
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py") if path.parent.name != "tests"}
    assert [t for t in sorted(tasks) if t not in text] == []
    assert [r for r in sorted(rooms) if f"{r}/" not in text] == []


def test_every_command_a_page_shows_exists() -> None:
    missing = []
    for page in PAGES:
        for module in re.findall(r"python -m ([a-z_]+(?:\.[a-z_]+)+)", page.read_text("utf-8")):
            path = ROOT / Path(*module.split("."))
            if not path.with_suffix(".py").exists() and not path.is_dir():
                missing.append(f"{page.name}: {module}")
    assert missing == []


def test_every_file_a_page_links_to_is_there() -> None:
    broken = []
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text("utf-8")):
            if not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert broken == []


def test_every_make_target_is_in_the_readme_or_in_make_help() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in ("run", "test", "check", "serve", "compare"):
        assert re.search(rf"^{target}:.*## ", makefile, re.M)
        assert f"make {target}" in text


def test_the_readme_table_is_the_committed_run() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    evidence = ROOT / "docs" / "results" / "demo" / "before_after.json"
    found = json.loads(evidence.read_text(encoding="utf-8"))
    for row in found["rows"]:
        shown = f"{row['score']:.3f}".lstrip("0")
        assert re.search(rf"\| {re.escape(row['agent'])} \|.*{re.escape(shown)}", text), row[
            "agent"
        ]


@pytest.mark.parametrize("name", ["review_budgeted", "easy_screening"])
def test_the_longer_runs_are_committed_with_their_machine(name: str) -> None:
    found = json.loads((ROOT / "docs" / "results" / name / "before_after.json").read_text("utf-8"))
    assert found["rows"]
    assert found["machine"]


def test_every_kept_result_is_said_to_be_there_with_what_made_it() -> None:
    results = ROOT / "docs" / "results"
    told = (results / "README.md").read_text("utf-8")
    folders = sorted(path.name for path in results.iterdir() if path.is_dir())
    assert [name for name in folders if f"| `{name}` | " not in told] == []
