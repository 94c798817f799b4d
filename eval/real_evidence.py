"""What public sources say of a target, and how likely that makes go: a report, with no truth to grade it by.

`python -m eval.real_evidence --target EGFR --indication nsclc`. The drug target family's exact filter reads
the levels as if each came through its action's declared channel. No episode, no score, no reward. Knows
findings and belief; nothing of how a source is reached.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown

from data.drug_target.records import FACTORS, Modality, Reading
from data.ingest import access, add_question, subjects
from data.sources import gather
from data.sources.finding import Disease, Finding, Subject, channel, spelled
from data.sources.gather import Failure
from data.sources.wire import SourceError
from env_server.contract import JsonObject
from env_server.envs.drug_target import belief, channels
from env_server.envs.drug_target.biology import BASE_RATE, FACTOR_WORDS
from eval import stopped

WARNING = (
    "Research only, not medical advice. Nothing here is graded: there is no known answer, no reward, and no"
    " prior knowledge of this gene in this cancer."
)

INVENTED = "Read from recorded samples: their figures are invented."


class NothingFound(SourceError):
    """No source said anything that the filter can read."""


@dataclass(frozen=True, slots=True)
class Weighed:
    """One finding, and what it did to the belief.

    p_go: the chance of go once it and all before it are read. without: the chance of go were it alone
    left out at the end. why_not: why it was not read; p_go and without are None then.
    """

    finding: Finding
    p_go: float | None
    without: float | None
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that was found, and the belief that follows from it."""

    target: Subject
    indication: Disease
    before: float
    p_go: float
    weighed: tuple[Weighed, ...]
    marginals: dict[str, tuple[float, ...]]
    unread: tuple[str, ...]
    failures: tuple[Failure, ...]

    @property
    def at_base_rate(self) -> float:
        """The chance of go where as few pairs are go as in the fact table: the same evidence, other odds."""
        odds = self.p_go / (1 - self.p_go) * BASE_RATE / (1 - BASE_RATE)
        odds /= self.before / (1 - self.before)
        return odds / (1 + odds)

    @property
    def invented(self) -> bool:
        """Whether any of it comes from samples."""
        return any("samples" in one.finding.release for one in self.weighed)

    def to_json(self) -> JsonObject:
        return {
            "target": self.target.symbol,
            "indication": self.indication.key,
            "modality": self.target.modality,
            "p_go_before": self.before,
            "p_go": self.p_go,
            "p_go_at_base_rate": self.at_base_rate,
            "findings": [
                one.finding.to_json()
                | {"p_go": one.p_go, "p_go_without": one.without, "not_read": one.why_not or None}
                for one in self.weighed
            ],
            "marginals": {factor: list(chances) for factor, chances in self.marginals.items()},
            "factors_nobody_read": list(self.unread),
            "failures": [
                {"source": f.source, "asked": f.asked, "why": f.why} for f in self.failures
            ],
            "warning": f"{WARNING} {INVENTED}" if self.invented else WARNING,
        }


def weigh(
    target: Subject,
    indication: Disease,
    found: Sequence[Finding],
    failures: Sequence[Failure] = (),
) -> Report:
    """Read the findings in order by the exact filter. Raises NothingFound where none can be read.

    A level that two sources give for the same action is one reading: the first counts. No data is not
    read, because a source's silence is not the random gap of the declared channel.
    """
    observed: dict[int, tuple[Reading, int]] = {}
    refused: dict[int, str] = {}
    done: set[tuple[str, tuple[tuple[str, str | bool], ...], str]] = set()
    for at, one in enumerate(found):
        reading, level = channel(one), one.judged.level
        asked = (one.action, one.params, one.judged.factor)
        if level is None:
            refused[at] = "no data"
        elif reading is None:
            refused[at] = f"{spelled(one.action, dict(one.params))} declares no channel for it"
        elif asked in done:
            refused[at] = "the same reading came from another source"
        else:
            observed[at] = (reading, level)
            done.add(asked)
    if not observed:
        told = "; ".join(f"{f.source}: {f.why}" for f in failures) or "every source had no data"
        raise NothingFound(f"nothing to weigh for {target.symbol} in {indication.key}: {told}")
    whole = believed(target.modality, list(observed.values()))
    return Report(
        target=target,
        indication=indication,
        before=believed(target.modality, []).p_go,
        p_go=whole.p_go,
        weighed=tuple(_weighed(at, one, observed, refused, target) for at, one in enumerate(found)),
        marginals={factor: whole.marginal(factor) for factor in FACTORS},
        unread=_unread(list(observed.values())),
        failures=tuple(failures),
    )


def believed(modality: Modality, observed: Sequence[tuple[Reading, int]]) -> belief.Belief:
    """The family's filter over these readings, knowing no more of gene and cancer than the modality."""
    return belief.opening(modality).after(observed)


def _weighed(
    at: int,
    one: Finding,
    observed: dict[int, tuple[Reading, int]],
    refused: dict[int, str],
    target: Subject,
) -> Weighed:
    if at not in observed:
        return Weighed(one, None, None, refused[at])
    so_far = [pair for when, pair in observed.items() if when <= at]
    others = [pair for when, pair in observed.items() if when != at]
    return Weighed(
        one,
        believed(target.modality, so_far).p_go,
        believed(target.modality, others).p_go,
    )


def _unread(observed: Sequence[tuple[Reading, int]]) -> tuple[str, ...]:
    read = {reading.factor for reading, _ in observed}
    return tuple(FACTOR_WORDS[factor] for factor in FACTORS if factor not in read)


# -- shown ---------------------------------------------------------------------------------------


def markdown(report: Report) -> str:
    """The report as a page."""
    lines = [
        f"# {report.target.symbol} in {report.indication.name}: what public sources say",
        f"**{WARNING}**" + (f" **{INVENTED}**" if report.invented else ""),
        f"Chance that go is right, by the declared errors of each reading: **{report.p_go:.2f}**"
        f" (before any of it {report.before:.2f}). Where only {BASE_RATE:.2f} of programmes are worth going on with,"
        f" as in the fact table, the same evidence gives **{report.at_base_rate:.2f}**.",
        "| source | reading | level | what it says | P(go) after | P(go) without it |",
        "| :--- | :--- | :--- | :--- | ---: | ---: |",
    ]
    body = [_row(one) for one in report.weighed]
    below = [
        "| factor | " + " | ".join(("chance of level 0", "1", "2")) + " |",
        "| :--- | ---: | ---: | ---: |",
        *(
            f"| {FACTOR_WORDS[factor]} | "  # type: ignore[index]  # factors of the tables
            + " | ".join([f"{chance:.2f}" for chance in chances] + [""] * (3 - len(chances)))
            + " |"
            for factor, chances in report.marginals.items()
        ),
    ]
    unread = f"Nobody read: {', '.join(report.unread)}. Their chances follow from the population and from what go needs."
    limits = (
        "The filter takes readings as independent given the hidden profile. Sources copy from one another (a drug's approval is in"
        " three of them), so the chance is more extreme than the evidence warrants. The declared errors were chosen for simulated"
        " data; no source's error was measured."
    )
    failed = [f"- {one.source}, {one.asked}: {one.why}" for one in report.failures]
    parts = [
        "\n\n".join(lines[:3]),
        "\n".join([*lines[3:], *body]),
        "## What is believed",
        "\n".join(below),
        unread if report.unread else "",
        "## Limits",
        limits,
        *(["## Not asked", "\n".join(failed)] if failed else []),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _row(one: Weighed) -> str:
    judged = one.finding.judged
    said = "; ".join([judged.summary, *judged.remarks]).replace("|", "/")
    after = one.why_not or f"{one.p_go:.2f}"
    without = "" if one.without is None else f"{one.without:.2f}"
    reading = spelled(one.finding.action, dict(one.finding.params))
    level = f"{judged.factor} {channels.word(judged.factor, judged.level)}"
    return f"| {one.finding.source} | {reading} | {level} | {said} | {after} | {without} |"


def main(argv: Sequence[str] | None = None) -> int:
    """Ask the sources, weigh, and show; 2 where nothing could be weighed."""
    asked = arguments().parse_args(argv)
    try:
        target, disease = subjects(asked)
        with gather.opened(asked.sources, access(asked)) as sources:
            found, failed = gather.ask(sources, target, disease, _at_home)
        report = weigh(target, disease, found, failed)
        text = (
            json.dumps(report.to_json(), indent=2, ensure_ascii=False) + "\n"
            if asked.json
            else markdown(report)
        )
        if asked.to is not None:
            asked.to.write_text(text, encoding="utf-8")
    except (SourceError, OSError) as wrong:
        print(f"error: {wrong}", file=sys.stderr)
        return 2
    if asked.to is None:
        _print(text, asked.json)
    for one in failed:
        print(f"not asked: {one.source}, {one.asked}: {one.why}", file=sys.stderr)
    return 0


def _at_home(action: str, params: object) -> bool:
    """One lookup of trials, in this cancer: what happened elsewhere is no precedent."""
    return "any_indication" not in str(params) and "pan_cancer" not in str(params)


def _print(text: str, plain: bool) -> None:
    if plain or not sys.stdout.isatty():
        print(text, end="")
    else:
        Console().print(Markdown(text))


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval.real_evidence",
        description="Weigh what public sources say of a target by the exact filter: P(go) and a table of findings.",
        epilog=WARNING,
    )
    add_question(parser)
    names = list(gather.SOURCES)
    parser.add_argument("--sources", nargs="+", choices=names, default=names, help="default: all")
    parser.add_argument("--json", action="store_true", help="as JSON instead of Markdown")
    parser.add_argument("--to", type=Path, help="write to this file")
    return parser


if __name__ == "__main__":
    raise SystemExit(stopped.stoppable(main))
