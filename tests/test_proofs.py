"""A promise that tests prove is kept when all of them ran and passed, and by nothing else."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from bench import proofs
from bench.proofs import PROVED, Outcome, outcomes

TESTS = Path(__file__).parent
REPORT = """<testsuites><testsuite>
  <testcase classname="tests.test_a" name="test_one[x-1]"/>
  <testcase classname="tests.test_a" name="test_one[x-2]"><failure/></testcase>
  <testcase classname="tests.test_a" name="test_one_more"/>
  <testcase classname="tests.test_b" name="test_two"><skipped/></testcase>
  <testcase classname="tests.test_b" name="test_three"><error/></testcase>
</testsuite></testsuites>"""


@pytest.mark.parametrize("name", sorted({name for tests in PROVED.values() for name in tests}))
def test_every_test_that_is_named_exists(name: str) -> None:
    file, _, test = name.partition("::")
    tree = ast.parse((TESTS / file).read_text("utf-8"))
    found = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert not test or test in found


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("test_a.py::test_one", Outcome(passed=1, failed=1)),
        ("test_a.py::test_one_more", Outcome(passed=1)),
        ("test_a.py", Outcome(passed=2, failed=1)),
        ("test_b.py", Outcome(failed=1, absent=1)),
        ("test_b.py::test_gone", Outcome(absent=1)),
    ],
)
def test_a_test_that_failed_was_skipped_or_is_gone_proves_nothing(
    name: str, wanted: Outcome, tmp_path: Path
) -> None:
    written = tmp_path / "report.xml"
    written.write_text(REPORT)
    assert outcomes(written, {"promise": (name,)}) == {"promise": wanted}


def test_a_report_that_was_never_written_proves_nothing(tmp_path: Path) -> None:
    assert outcomes(tmp_path / "none.xml", {"a": ("test_a.py",)}) == {"a": Outcome(absent=1)}


@pytest.mark.slow
def test_narrowed_a_test_runs_the_cases_that_bear_the_word_and_others_all_of_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tests").mkdir()
    cases = "import pytest\n@pytest.mark.parametrize('split', ['train', 'test'])\n"
    for name in ("a", "b"):
        body = f"{cases}def test_{name}(split):\n    assert split == 'train' or {name == 'b'}\n"
        (tmp_path / "tests" / f"test_{name}.py").write_text(body)
    monkeypatch.setattr(proofs, "ROOT", tmp_path)
    both, written = ("test_a.py::test_a", "test_b.py::test_b"), tmp_path / "report.xml"
    proofs.run_tests(both, written, {both[0]: "train"})
    found = outcomes(written, {name: (name,) for name in both})
    assert found == {both[0]: Outcome(passed=1), both[1]: Outcome(passed=2)}
