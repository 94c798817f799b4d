"""Whether an environment does the same again: seeds, bytes, other episodes beside it, its own records.

Knows episodes and their bytes; nothing of scores.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from hashlib import blake2b
from itertools import islice

from env_server import registry
from env_server.contract import Episode, Family, RoundsError, canonical
from eval import replay
from eval.episode import play
from eval.finding import Finding, judged
from eval.probes import Subject, wander

SEEDS = 8  # patients whose every byte is compared
ELSEWHERE_S = 120.0


class NoAnswer(RoundsError, RuntimeError):
    """The other process that should have played the same episodes failed."""


def opening(episode: Episode) -> bytes:
    """What is shown first, without the name of the episode."""
    shown = episode.observe().to_json()
    shown.pop("episode_id", None)
    return canonical(shown)


def seed_control(subject: Subject) -> Finding:
    """A seed decides the patient: the same one again, another for another, none in two splits."""
    n, task = subject.patients, subject.task
    first = [opening(subject.begin(seed)) for seed in range(n)]
    same = sum(a == opening(subject.begin(seed)) for seed, a in enumerate(first)) / n
    distinct = len(set(first)) / n
    per_split = {
        split: {opening(subject.family.begin(task.name, s, split)) for s in range(n)}
        for split in task.splits
    }
    every = set().union(*per_split.values())
    shared = sum(map(len, per_split.values())) - len(every)
    return judged(
        "seed_control",
        task.name,
        same == 1 and distinct >= 0.95 and not shared,
        distinct,
        "same seed, same opening; >= 0.95 of seeds differ; no opening in two splits",
        f"{same:.0%} come back the same, {distinct:.0%} of {n} seeds differ,"
        f" {shared} shared by two of {len(per_split)} splits",
    )


def trace(episode: Episode) -> bytes:
    """Everything that an episode says from its opening to its outcome."""
    said = [canonical(episode.observe().to_json())]
    said += [canonical(step.to_json()) for step in wander(episode)]
    return b"\n".join([*said, canonical({"score": episode.score(), "state": episode.state()})])


def digests(family: Family, task: str, seeds: Iterable[int]) -> list[str]:
    """A fingerprint of each patient's trace."""
    traces = (trace(family.begin(task, seed, "validation")) for seed in seeds)
    return [blake2b(said, digest_size=12).hexdigest() for said in traces]


def episode_determinism(subject: Subject) -> Finding:
    """The same seed and actions give the same bytes, here and in a fresh process."""
    family, task = subject.family, subject.task.name
    n = min(SEEDS, subject.patients)
    once, again = (digests(family, task, range(n)) for _ in range(2))
    same = sum(a == b for a, b in zip(once, again, strict=True))
    said = f"{same} of {n} episodes the same again"
    if family.name in registry.names() and registry.get(family.name) is family:
        there = _in_another_process(family.name, task, n)
        elsewhere = sum(a == b for a, b in zip(once, there, strict=True))
        said += f", {elsewhere} in another process with another hash seed"
        same = min(same, elsewhere)
    else:
        said += "; not installed, so no other process can play it"
    return judged(
        "episode_determinism", task, same == n, same / n, "every byte of every episode", said
    )


_ELSEWHERE: dict[tuple[str, int], dict[str, list[str]]] = {}
_PLAY_THERE = """
import json, sys
from env_server import registry
from eval.conduct import digests
family = registry.get(sys.argv[1])
print(json.dumps({task: digests(family, task, range(int(sys.argv[2]))) for task in family.tasks}))
"""


def _in_another_process(family: str, task: str, n: int) -> list[str]:
    """Digests by a fresh interpreter; one for all tasks of a family. Raises NoAnswer."""
    if (family, n) not in _ELSEWHERE:
        answer = subprocess.run(
            [sys.executable, "-c", _PLAY_THERE, family, str(n)],
            env={**os.environ, "PYTHONHASHSEED": "4242", "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            timeout=ELSEWHERE_S,
            check=False,
        )
        if answer.returncode:
            raise NoAnswer(f"another process could not play {family}: {answer.stderr[-400:]}")
        _ELSEWHERE[family, n] = json.loads(answer.stdout)
    return _ELSEWHERE[family, n][task]


def episode_isolation(subject: Subject) -> Finding:
    """Episodes side by side, and a copy beside its original, go their own ways."""
    n = min(4, subject.patients)
    alone = [[canonical(s.to_json()) for s in wander(subject.begin(seed))] for seed in range(n)]
    walks = [wander(subject.begin(seed)) for seed in range(n)]
    together: list[list[bytes]] = [[] for _ in range(n)]
    for _ in range(subject.task.max_steps + 1):
        for said, walk in zip(together, walks, strict=True):
            said += [canonical(step.to_json()) for step in islice(walk, 1)]
    apart = sum(a == b for a, b in zip(alone, together, strict=True))
    untouched = sum(_copy_leaves_alone(subject.begin(seed)) for seed in range(n))
    return judged(
        "episode_isolation",
        subject.task.name,
        apart == untouched == n,
        min(apart, untouched) / n,
        "every episode the same beside others, and after its copy was played",
        f"{apart} of {n} the same when interleaved, {untouched} of {n} untouched by their copy",
    )


def _copy_leaves_alone(episode: Episode) -> bool:
    next(wander(episode), None)
    if episode.done:
        return True
    before = canonical([episode.observe().to_json(), episode.state()])
    legal = list(episode.legal_actions())
    list(wander(episode.copy(), "elsewhere"))
    after = canonical([episode.observe().to_json(), episode.state()])
    return before == after and legal == list(episode.legal_actions())


def replayability(subject: Subject) -> Finding:
    """What an episode's record says can be played again from the record alone, byte for byte."""
    family, task = subject.family, subject.task.name
    cards = [c for role in ("random", "heuristic", "reference") for c in subject.cards(role)]
    differences, n = [], 0
    for card in cards:
        for seed in range(min(4, subject.patients)):
            recorded = play(family, task, seed, subject.split, card)
            body = json.loads(json.dumps(recorded.to_json()))
            n += 1
            found = replay.check(n, type(recorded).from_json(body), body, family)
            if found is not None:
                differences.append(str(found))
    said = differences[0] if differences else f"{n} records of {len(cards)} agents, all the same"
    share = 1 - len(differences) / max(n, 1)
    return judged("replayability", task, not differences, share, "every record, every byte", said)
