"""Print exactly what a model sees: `python -m prompts.show --family polypharmacy --seed 3`.

Knows the command line; what is printed comes from `render.py` alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import pairwise
from pathlib import Path

from env_server.contract import Action, Family, JsonObject, Refusal, RoundsError

GOLDEN = Path(__file__).parent.parent / "tests" / "golden"


def main(argv: list[str] | None = None) -> int:
    options = _options(argv)
    try:
        if options.golden:
            return _write_golden()
        return _show(options)
    except RoundsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m prompts.show", description=__doc__)
    parser.add_argument(
        "--family", default="polypharmacy", help="environment family (default: %(default)s)"
    )
    parser.add_argument("--task", help="task (default: the family's own)")
    parser.add_argument("--seed", type=int, default=0, help="of the case (default: %(default)s)")
    parser.add_argument("--split", default="train", help="whose case (default: %(default)s)")
    parser.add_argument(
        "--style", choices=("full", "brief"), default="full", help="wording (default: %(default)s)"
    )
    parser.add_argument("--tools", action="store_true", help="the tools of a chat request instead")
    parser.add_argument("--play", metavar="AGENT", help="play on with one of the family's agents")
    parser.add_argument(
        "--golden", action="store_true", help="rewrite tests/golden from its fixed observations"
    )
    return parser.parse_args(argv)


def _show(options: argparse.Namespace) -> int:
    from env_server import registry
    from prompts.tools import tools

    family = registry.get(options.family)
    if options.tools:
        text = json.dumps(tools(family), indent=2, ensure_ascii=False)
        print(text)
    else:
        text = _conversation(family, options)
        print(text)
    print(f"{len(text)} characters, {len(text.split())} words", file=sys.stderr)
    return 0


def _conversation(family: Family, options: argparse.Namespace) -> str:
    from env_server import registry
    from prompts.history import Dialogue
    from prompts.render import update

    task = registry.task(family, options.task)
    episode = family.begin(task.name, options.seed, options.split)
    before = episode.observe().to_json()
    dialogue = Dialogue.begin(family, task, before, options.style)
    ending = ""
    if options.play:
        agent = family.agents[registry.agent(family, options.play)].make(episode)
        while not episode.done:
            action = agent.act(episode.observe(), episode.legal_actions)
            dialogue.answer(_spoken(action))
            step = episode.step(action)
            after = step.observation.to_json()
            dialogue.result(before, after)
            if step.done:
                ending = f"\n\n[not shown] {update(family, before, after, options.style)}"
            before = after
    return "\n\n".join(f"[{m['role']}]\n{m['content']}" for m in dialogue.messages) + ending


def _spoken(action: Action | Refusal) -> str:
    from prompts.parse import spell

    return action.why if isinstance(action, Refusal) else spell(action)


# -- golden files -----------------------------------------------------------------------------


def golden() -> dict[str, str]:
    """File name -> text of every golden prompt, from the fixed observations beside them.

    Observations are written by hand, so tuning a patient generator changes no golden file.
    """
    from env_server import registry
    from prompts.render import STYLES, briefing, opening, update
    from prompts.tools import tools

    texts: dict[str, str] = {}
    for source in sorted(GOLDEN.glob("*.*.json")):
        fixed = json.loads(source.read_text(encoding="utf-8"))
        family, steps = registry.get(fixed["family"]), _moments(fixed)
        for style in STYLES:
            said = [briefing(family, fixed["task"], style), opening(family, steps[0], style)]
            said += [update(family, a, b, style) for a, b in pairwise(steps)]
            texts[f"{source.stem}.{style}.txt"] = "\n\n----\n\n".join(said) + "\n"
        texts[f"{family.name}.tools.txt"] = json.dumps(tools(family), indent=2) + "\n"
    return texts


def _moments(fixed: JsonObject) -> list[JsonObject]:
    """The observations of a fixed episode: the first whole, each later one as what changed in it."""
    moments = [fixed["observation"]]
    for change in fixed["changes"]:
        moments.append({**moments[-1], **change})
    return moments


def _write_golden() -> int:
    for name, text in golden().items():
        (GOLDEN / name).write_text(text, encoding="utf-8")
        print(GOLDEN / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
