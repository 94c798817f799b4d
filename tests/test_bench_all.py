"""The page of all promises: what is kept, what is broken, and what happens where a script fails."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

import pytest

from bench import all as page
from bench.all import Script, main
from bench.processes import descendants

WRITTEN = {
    "kept": """
from bench.promise import Figure, report
import sys
sys.exit(report("kept", [Figure("speed", 2.0, "1/s", 1, "least", 1.0), Figure("told", 5.0, "s", 1)],
                as_json="--json" in sys.argv, seeds="0"))
""",
    "broken": """
from bench.promise import Figure, report
import sys
sys.exit(report("broken", [Figure("speed", 0.5, "1/s", 1, "least", 1.0)], as_json=True, seeds="0"))
""",
    "fails": "raise SystemExit('no such patient')",
    "hangs": "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])",
    "quiet": "print('| a | table |')",
    "slow": """
import time
from pathlib import Path
from bench.promise import report
import sys
with open("seen", "a") as seen: print("began", file=seen)
time.sleep(1.0)
with open("seen", "a") as seen: print("ended", file=seen)
sys.exit(report("slow", [], as_json=True, seeds="0"))
""",
    "few": """
from bench.promise import Figure, report
import sys
few = Figure("found", 0.7, "share", 20, "least", 0.8, 0.5, 0.86, sampled=True)
sys.exit(report("few", [few], as_json=True, seeds="0"))
""",
}


@pytest.fixture(autouse=True)
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of scripts that keep, break, fail and hang."""
    (tmp_path / "bench").mkdir()
    real = Path(page.__file__).parent
    for name in ("__init__", "promise"):
        (tmp_path / "bench" / f"{name}.py").write_text((real / f"{name}.py").read_text())
    for name, text in WRITTEN.items():
        (tmp_path / "bench" / f"{name}.py").write_text(text)
    monkeypatch.setattr(page, "ROOT", tmp_path)
    monkeypatch.setattr(page, "SCRIPTS", tuple(Script(name) for name in (*WRITTEN, "unwritten")))


def test_every_promise_is_shown_and_a_kept_page_ends_with_zero(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--quick", "--only", "kept"]) == 0
    told = capsys.readouterr().out
    assert "at least 1" in told and "kept" in told and "0 BROKEN in" in told
    assert "told" not in told  # a figure without a promise has no row


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("broken", "speed"),
        ("fails", "no such patient"),
        ("hangs", "no end within"),
        ("quiet", "without figures"),
    ],
)
def test_a_broken_failing_or_hanging_script_breaks_the_page_and_hinders_no_other(
    name: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    limit = ["--limit-s", "3"] if name == "hangs" else []
    assert main(["--quick", "--only", name, "kept", "--json", *limit]) == 1
    found = {one["script"]: one for one in json.loads(capsys.readouterr().out)["scripts"]}
    assert (found["kept"]["broken"], found[name]["broken"]) == (0, 1)
    assert why in json.dumps(found[name])


def test_what_so_few_cannot_tell_from_chance_is_no_broken_promise(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--quick", "--only", "few"]) == 0
    told = capsys.readouterr().out
    assert "0.5 to 0.86" in told and "0 kept, 1 within the interval, 0 BROKEN" in told


def test_what_a_hanging_script_had_started_ends_with_it() -> None:
    began = time.monotonic()
    assert asyncio.run(page.run(Script("hangs", ()), True, 2.0)).broken == 1
    assert time.monotonic() - began < 20.0
    assert descendants(os.getpid()) == []


def test_only_scripts_that_exist_can_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "unwritten"])
    assert "invalid choice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("quick", "aside", "seen"),
    [
        (True, True, ["began", "began", "ended", "ended"]),
        (True, False, ["began", "ended", "began", "ended"]),
        (False, True, ["began", "ended", "began", "ended"]),
    ],
)
def test_only_what_may_run_beside_others_does_and_only_on_the_quick_page(
    quick: bool, aside: bool, seen: list[str], tmp_path: Path
) -> None:
    (tmp_path / "bench" / "slow_too.py").write_text(WRITTEN["slow"])
    both = [Script("slow", aside=aside), Script("slow_too", aside=aside)]
    told = asyncio.run(page.Pass(quick, 20.0, time.perf_counter() + 60.0).over(both))
    assert [(one.script, one.broken) for one in told] == [("slow", 0), ("slow_too", 0)]
    assert (tmp_path / "seen").read_text().split() == seen


def test_a_script_with_no_time_left_is_a_broken_promise() -> None:
    told = asyncio.run(page.Pass(True, 20.0, time.perf_counter()).over([Script("hangs")]))
    assert [row.name for row in told[0].rows] == ["no end within 1 s"]
