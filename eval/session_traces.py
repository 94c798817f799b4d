"""Episodes as session traces, the form that the Hugging Face Hub's trace viewer opens.

The Hub's Session Trace Simple Format: JSON lines, a session header and then its messages. One file
is one session there, so `traces/` holds a file an episode; traces.jsonl holds all of them one after
another. Knows that form and `story`; nothing is uploaded here.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from env_server import registry
from env_server.contract import Family, JsonObject, RoundsError, canonical, did_you_mean
from eval import stopped
from eval.finished import NotFinished
from eval.limits import at_least
from eval.record import EPISODES, episodes_of, read_episodes
from eval.story import Moment, Story, tell
from eval.trajectory import Trajectory

HARNESS = "rounds"
ALL, EACH = "traces.jsonl", "traces"
FILES = 20  # episodes an agent and task that get a file of their own


class NotPlayed(RoundsError, LookupError):
    """The run has no episode of an agent that was asked for."""


def session(played: Trajectory, family: Family | None = None) -> list[JsonObject]:
    """The lines of one session: header, what the player was told, and every answer with its result.

    An answer is the model's own words, and a tool call where an action was read from them; the
    environment's reply is that call's result, or a user message where no action could be read.
    """
    home = family or registry.get(played.family)
    story = tell(played, home)
    return [_header(played), *(_message(**m) for m in _messages(played, story))]


def write(run: Path, agents: Sequence[str] = (), files: int = FILES) -> tuple[Path, int]:
    """Write traces.jsonl and traces/ into a run's folder: (traces.jsonl, how many sessions).

    agents: of these alone; empty is all. files: sessions of each agent and task that get a file of
    their own. Lost episodes are left out. Raises NotFinished, NotPlayed, BadLine.
    """
    if not (run / EPISODES).is_file():
        raise NotFinished(f"{run} holds no {EPISODES}: keep a comparison with --run NAME")
    _demand(agents, run)
    each = run / EACH
    each.mkdir(exist_ok=True)
    given: dict[tuple[str, str], int] = {}
    count = 0
    with (run / ALL).open("wb") as together:
        for played in _wanted(read_episodes(run / EPISODES), agents):
            body = b"".join(canonical(line) + b"\n" for line in session(played))
            together.write(body)
            count += 1
            nth = given[played.agent, played.task] = given.get((played.agent, played.task), 0) + 1
            if nth <= files:
                (each / f"{file_name(played)}.jsonl").write_bytes(body)
    return run / ALL, count


def _demand(agents: Sequence[str], run: Path) -> None:
    """Raise NotPlayed where one of them has no episode, before anything is written over."""
    if not agents:
        return
    there = tuple(dict.fromkeys(played.agent for played in read_episodes(run / EPISODES)))
    for name in agents:
        if name not in there:
            raise NotPlayed(f"{run}: {did_you_mean('agent', name, there)}")


def session_id(played: Trajectory) -> str:
    """Unique in a run: who played which patient."""
    return f"{played.family}-{played.task}-{played.split}-{played.seed}-{played.agent}"


def file_name(played: Trajectory) -> str:
    """The session's id with nothing in it that a file system would mind."""
    return re.sub(r"[^\w.-]+", "_", session_id(played)).lstrip(".")


def _wanted(episodes: Iterable[Trajectory], agents: Sequence[str]) -> Iterator[Trajectory]:
    return (t for t in episodes if t.lost is None and (not agents or t.agent in agents))


def _header(played: Trajectory) -> JsonObject:
    return {
        "type": "session",
        "harness": HARNESS,
        "id": session_id(played),
        "name": f"{played.agent} on {played.task}, {played.split} seed {played.seed}:"
        f" score {played.score:.3f}",
        "family": played.family,
        "task": played.task,
        "split": played.split,
        "seed": played.seed,
        "version": played.version,
        "agent": played.agent,
        "score": played.score,
        "return": played.episode_return,
        "synthetic": True,  # no patient in here ever lived
    }


def _messages(played: Trajectory, story: Story) -> Iterator[JsonObject]:
    yield {"role": "system", "content": story.briefing}
    if story.moments:
        yield {"role": "user", "content": story.moments[0].seen}
    ends = [*(moment.seen for moment in islice(story.moments, 1, None)), story.ending]
    for moment, after in zip(story.moments, ends, strict=True):
        yield from _exchange(moment, after, played.agent)


def _exchange(moment: Moment, after: str, agent: str) -> Iterator[JsonObject]:
    """An answer and what the environment said to it, with the reward in words."""
    said: JsonObject = {"role": "assistant", "content": moment.text or "", "model": agent}
    paid = f"{after}\n\n[{_paid(moment)}]".strip()
    if moment.action is None:
        yield said
        yield {"role": "user", "content": paid}
        return
    call = f"turn-{moment.number}"
    arguments = json.loads(moment.action)
    name = str(arguments.pop("action_type", "act"))
    called = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    yield said | {"toolCalls": [{"id": call, "function": called}]}
    yield {"role": "tool", "toolCallId": call, "content": paid}


def _paid(moment: Moment) -> str:
    parts = ", ".join(f"{name} {value:+.4f}" for name, value in moment.parts)
    refused = f"; refused, {moment.refusal}" if moment.refusal else ""
    return f"reward {moment.reward:+.4f}{': ' if parts else ''}{parts}{refused}"


def _message(**message: object) -> JsonObject:
    return {"type": "message", "message": message}


# -- the command ---------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m eval.session_traces runs/NAME`: the path of traces.jsonl on stdout."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.session_traces",
        description="Write a run's episodes in the session-trace form of the Hugging Face Hub.",
        epilog="Upload with: hf upload USER/DATASET runs/NAME/traces . --repo-type dataset",
    )
    add = parser.add_argument
    add("run", type=Path, help="a folder of eval.compare --run, or its name in runs/")
    add("--agents", nargs="+", default=(), help="of these agents alone")
    add(
        "--files",
        type=at_least(0),
        default=FILES,
        help="files an agent and task (default: %(default)s)",
    )
    asked = parser.parse_args(argv)
    try:
        path, count = write(episodes_of(asked.run).parent, asked.agents, asked.files)
    except (RoundsError, OSError) as wrong:
        print(f"error: {wrong}", file=sys.stderr)
        return 2
    print(path)
    print(f"{count} sessions", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(stopped.stoppable(main))
