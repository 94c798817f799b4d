"""`python -m data.ingest SOURCE`: what a public source says of a gene in a cancer, as findings with levels.

Knows flags and printing; the sources are in `data/sources/`. Nothing here is medical advice.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from data.drug_target.records import MODALITIES
from data.sources import finding, gather
from data.sources.finding import Finding, Params
from data.sources.gtex import DATASETS
from data.sources.live import TIMEOUT_S
from data.sources.wire import SourceError

LEVELS = ("0 unfavourable", "1 ambiguous", "2 favourable")


def main(argv: Sequence[str] | None = None) -> int:
    """Ask one source (or all) and print; 2 where anything could not be asked."""
    asked = arguments().parse_args(argv)
    names = list(gather.SOURCES) if asked.source == "all" else [asked.source]
    try:
        target, disease = subjects(asked)
        with gather.opened(names, access(asked)) as sources:
            found, failed = gather.ask(sources, target, disease, wanted(asked), _tick)
    except (SourceError, OSError) as wrong:
        print(f"error: {wrong}", file=sys.stderr)
        return 2
    if asked.json:
        body = {
            "findings": [one.to_json() for one in found],
            "failures": [
                {"source": one.source, "asked": one.asked, "why": one.why} for one in failed
            ],
        }
        print(json.dumps(body, indent=2, ensure_ascii=False))
    else:
        show(found)
    for one in failed:
        print(f"error: {one.source}, {one.asked}: {one.why}", file=sys.stderr)
    if not found and not failed:
        print(f"error: {asked.source} offers no action {asked.action!r}", file=sys.stderr)
    return 0 if found and not failed else 2


def show(found: Sequence[Finding]) -> None:
    """The findings as a table, remarks below their row."""
    table = Table(title="What the sources say", title_justify="left")
    for heading in ("source", "action", "factor", "level", "summary"):
        table.add_column(heading, overflow="fold")
    for one in found:
        judged = one.judged
        level = "no data" if judged.level is None else LEVELS[judged.level]
        table.add_row(
            one.source,
            finding.spelled(one.action, dict(one.params)),
            judged.factor,
            level,
            "\n".join([judged.summary, *(f"- {remark}" for remark in judged.remarks)]),
        )
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(table)
    console.print("Levels follow the rules of docs/sources.md. Research only, not medical advice.")


def subjects(asked: argparse.Namespace) -> tuple[finding.Subject, finding.Disease]:
    """Whom the question is about. Raises UnknownSubject."""
    target = finding.subject(
        asked.target, asked.ensembl, asked.chembl, asked.modality, tuple(asked.drugs or ())
    )
    return target, finding.disease(asked.indication)


def access(asked: argparse.Namespace) -> gather.Access:
    """How the flags say that sources are reached."""
    return gather.Access(
        samples=gather.SAMPLES if asked.from_samples else None,
        cache=None if asked.no_cache else asked.cache,
        release=asked.release,
        refresh=asked.refresh,
        timeout_s=asked.timeout,
        gtex=asked.gtex_dataset,
    )


def wanted(asked: argparse.Namespace) -> Any:
    """Which of a source's offers are asked: the one action, or all."""

    def chosen(action: str, params: Params) -> bool:
        return asked.action is None or action == asked.action

    return chosen


def _tick(source: str, question: str) -> None:
    if sys.stderr.isatty():
        print(f"{source}: {question}", file=sys.stderr)


def add_question(parser: argparse.ArgumentParser) -> None:
    """The flags that say who is asked about, and how sources are reached."""
    add = parser.add_argument
    add("--target", required=True, help="gene symbol, like EGFR")
    add("--indication", default="nsclc", help="cancer by key, like nsclc (default: %(default)s)")
    add("--ensembl", help="gene id, for a gene that the tables do not have")
    add("--chembl", help="ChEMBL target id, likewise")
    add("--modality", choices=MODALITIES, help="of the programme (default: the table's)")
    add("--drugs", nargs="+", help="drug names that trials are searched by")
    add("--from-samples", action="store_true", help="recorded answers instead of the network")
    add("--cache", type=Path, default=gather.CACHE, help="raw answers (default: %(default)s)")
    add("--no-cache", action="store_true", help="keep no answers")
    add("--release", default="current", help="name that cached answers are kept under")
    add("--refresh", action="store_true", help="ask again though an answer is kept")
    add("--gtex-dataset", choices=[*DATASETS], default="gtex_v8", help="default: %(default)s")
    add("--timeout", type=float, default=TIMEOUT_S, help="seconds a request")


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data.ingest",
        description="Ask a public source about a gene in a cancer and print findings with levels.",
        epilog="Research only, not medical advice. Mind each source's terms of use.",
    )
    parser.add_argument("source", choices=[*gather.SOURCES, "all"])
    add_question(parser)
    parser.add_argument("--action", help="only this action (default: all that the source answers)")
    parser.add_argument("--json", action="store_true", help="findings as JSON")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
