"""The promises that tests and the contract prover keep: each named with its proof, and every proof is run.

Knows promises, names of tests and pytest's report; what a test does is its own business. A promise is
kept when all of its tests have run and passed: one that is skipped, or gone, proves nothing.

`--quick` proves every promise too, and runs fewer cases of what is proved many times over; each figure
says which.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from bench.promise import Figure, report

ROOT = Path(__file__).resolve().parents[1]
FAMILIES = ("polypharmacy", "drug_target")

# promise: the tests that prove it, as file, or file::test
PROVED: dict[str, tuple[str, ...]] = {
    "same bytes in process, over WS, HTTP and batch, every task": (
        "test_parity.py::test_every_door_gives_the_same_bytes",
        "test_server_sessions.py::test_a_batch_answers_each_step_as_if_it_came_alone",
    ),
    "killed client's seat free in a second; hung or slow one dropped in time": (
        "test_server_faults.py::test_a_killed_clients_seat_is_free_within_a_second",
        "test_server_faults.py::test_a_stopped_client_is_dropped_within_its_deadline",
        "test_server_faults.py::test_a_half_open_socket_is_dropped_within_its_deadline",
        "test_server_faults.py::test_a_peer_that_does_not_read_is_dropped_and_holds_nobody_up",
    ),
    "server killed: EpisodeLost, and no step that was answered is lost": (
        "test_client.py::test_a_killed_server_loses_the_episode_and_replay_takes_it_up_again",
    ),
    "schemathesis on the typed API: no 500": (
        "test_server_fuzz.py::test_the_typed_api_keeps_to_its_document",
    ),
    "reward, score and observation always finite": (
        "test_contract.py::test_rewards_are_finite_and_the_sum_of_their_parts",
        "test_contract.py::test_scores_stay_in_the_open_unit_interval",
        "test_contract.py::test_the_observation_schema_describes_every_observation",
        "test_contract.py::test_features_are_finite_float32_of_the_promised_size",
    ),
    "limits of rate and body": (
        "test_server_guard.py::test_an_address_over_the_rate_is_told_when_to_come_back",
        "test_server_guard.py::test_a_socket_over_the_rate_is_slowed_and_loses_nothing",
        "test_server_guard.py::test_a_large_body_is_refused_before_it_is_read",
        "test_server_guard.py::test_a_frame_is_measured_in_bytes_not_in_letters",
    ),
    "bearer token for what changes more than a session": (
        "test_server_guard.py::test_what_changes_more_than_a_session_is_the_keepers",
        "test_server_guard.py::test_a_lent_player_is_asked_for_the_tokens_holder_only",
    ),
    "CORS closed, CSP on pages": (
        "test_server_guard.py::test_other_sites_are_kept_out_unless_named",
        "test_server_guard.py::test_every_reply_says_what_a_browser_may_do_with_it",
        "test_server_guard.py::test_the_docs_page_runs_its_own_script_alone",
    ),
    "no token after done": (
        "test_dialogue.py::test_nothing_is_said_after_the_end_and_the_finished_leave_at_once",
        "test_prove.py::test_tokens_after_the_last_answer_are_caught",
    ),
    "prover catches shifted masks, re-tokenised text, mixed patients, late replies": (
        "test_prove.py::test_a_mask_shifted_by_one_token_is_caught",
        "test_prove.py::test_model_text_that_was_tokenised_again_is_caught",
        "test_prove.py::test_two_patients_in_one_group_are_caught",
        "test_prove.py::test_a_reply_that_belongs_to_another_episode_is_caught",
    ),
    "same traces in process and over the socket": (
        "test_rollout.py::test_both_doors_play_the_same_episodes",
    ),
    "full disk and broken numbers stop the run in words": ("test_guards.py",),
}

# of these tests --quick runs the cases that bear this word: every task, with the patients of one split
NARROWED = {"test_parity.py::test_every_door_gives_the_same_bytes": "train"}
# the model is built from what 400 episodes of each task say: tasks on which those are soon played
PROVED_QUICKLY = {
    "polypharmacy": ("review_easy", "review_budgeted"),
    "drug_target": ("target_very_hard",),
}


@dataclass(slots=True)
class Outcome:
    """What became of the tests of one promise."""

    passed: int = 0
    failed: int = 0
    absent: int = 0  # named here, and none ran: skipped or gone


def run_tests(
    names: Iterable[str], report_to: Path, narrowed: Mapping[str, str] | None = None
) -> str:
    """Run the tests named, two processes side by side; returns the last line pytest said.

    narrowed: of a test, the word that its cases must bear to be run; then in one process, since two
    would import the same libraries twice, which takes longer than so few tests do.
    """
    processes = "0" if narrowed else str(min(2, os.cpu_count() or 1))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-n", processes, "--dist", "loadgroup", f"--junitxml={report_to}"]
    if narrowed:
        tests = {name.partition("::")[2]: word for name, word in narrowed.items()}
        some = (f"(not {test} or {word})" for test, word in tests.items())
        command += ["-k", " and ".join(some)]
    done = subprocess.run(
        [*command, *(f"tests/{name}" for name in names)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    said = (done.stdout + done.stderr).strip().splitlines()
    return said[-1] if said else f"pytest ended with {done.returncode} and said nothing"


def outcomes(written: Path, proved: dict[str, tuple[str, ...]]) -> dict[str, Outcome]:
    """Per promise, from pytest's own report."""
    cases = list(ElementTree.parse(written).iter("testcase")) if written.is_file() else []
    found = {promise: Outcome() for promise in proved}
    for promise, names in proved.items():
        for name in names:
            mine = [case for case in cases if _proves(case, name)]
            bad = sum(_has(case, "failure", "error") for case in mine)
            skipped = sum(_has(case, "skipped") for case in mine)
            found[promise].failed += bad
            found[promise].absent += skipped if mine else 1
            found[promise].passed += len(mine) - bad - skipped
    return found


def _proves(case: ElementTree.Element, name: str) -> bool:
    file, _, test = name.partition("::")
    of_file = case.get("classname", "").rpartition(".")[2] == file.removesuffix(".py")
    return of_file and (not test or case.get("name", "").partition("[")[0] == test)


def _has(case: ElementTree.Element, *kinds: str) -> bool:
    return any(case.find(kind) is not None for kind in kinds)


def proved_by_tests(quick: bool) -> list[Figure]:
    """A figure a promise: how many of its tests did not pass."""
    names = list(dict.fromkeys(name for tests in PROVED.values() for name in tests))
    with tempfile.TemporaryDirectory(prefix="rounds-proofs-") as folder:
        written = Path(folder) / "report.xml"
        print(run_tests(names, written, NARROWED if quick else None), file=sys.stderr)
        found = outcomes(written, PROVED)
    return [_proved(promise, found[promise], quick) for promise in PROVED]


def _proved(promise: str, one: Outcome, quick: bool) -> Figure:
    files = sorted({name.partition("::")[0] for name in PROVED[promise]})
    words = sorted(NARROWED[name] for name in PROVED[promise] if quick and name in NARROWED)
    told = [*files, *(f"{word} cases only" for word in words)]
    unproved = one.failed + one.absent
    n = unproved + one.passed
    return Figure(
        f"{promise} ({', '.join(told)})", unproved, "tests that do not pass", n, "most", 0
    )


def proved_by_the_prover(family: str, quick: bool) -> list[Figure]:
    """Violations over tasks of a family, on rollouts of the embedded model through a real server."""
    every = _tasks(family)
    tasks = PROVED_QUICKLY[family] if quick else every
    flags = ["--model", "tiny", "--family", family, "--tasks", *tasks]
    flags += ["--groups", "1", "--attempts", "2", "--answer-tokens", "24", "--json"]
    proofs = _proofs(flags)
    violations = sum(len(proof["violations"]) for proof in proofs)
    tokens = sum(proof["tokens"] for proof in proofs)
    proved = sum(proof["tokens"] > 0 for proof in proofs)
    name = f"contract prover, {family}"
    of = f" of {len(every)}" if quick else ""
    return [
        Figure(f"{name}: violations", violations, "violations", tokens, "most", 0),
        Figure(f"{name}: tasks{of}", proved, "tasks", tokens, "least", len(tasks)),
    ]


def _proofs(flags: Sequence[str]) -> list[dict[str, Any]]:
    """What `python -m training.prove` prints; called here, so that its libraries are imported once."""
    from training.prove import main as prove

    with redirect_stdout(StringIO()) as told:
        code = prove(flags)
    if code not in (0, 1):
        raise RuntimeError(f"training.prove {' '.join(flags)} ended with {code}")
    found: list[dict[str, Any]] = json.loads(told.getvalue())
    return found


def _tasks(family: str) -> tuple[str, ...]:
    from env_server import registry

    return tuple(registry.get(family).tasks)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.proofs", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="fewer cases and tasks for the same promises")
    add("--json", action="store_true", help="print JSON with the machine")
    asked = parser.parse_args(argv)
    figures = proved_by_tests(asked.quick)
    try:
        for family in FAMILIES:
            figures += proved_by_the_prover(family, asked.quick)
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return report("bench.proofs", figures, as_json=asked.json, seeds="each test's own; prover 0")


if __name__ == "__main__":
    sys.exit(main())
