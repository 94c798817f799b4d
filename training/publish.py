"""A finished run goes to the Hub: weights, tokenizer, a card made from its evaluation, and nothing else.

`python -m training.publish RUN --to user/name`. Knows the order: find the run, read its evaluation,
check that adapter and merged model agree, build the folder, clean it, show it, upload it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from env_server.contract import RoundsError
from training import hub_upload, threads
from training.merge_check import EXACT, HALF
from training.publish_folder import Prepared, Run, find_run, listing, prepare

if TYPE_CHECKING:
    from training.evaluation import Evaluation
    from training.model_card import Published

threads.settle()


class CannotPublish(RoundsError, ValueError):
    """The run is not fit to be published as asked; says what to give."""


def publish(asked: argparse.Namespace) -> Prepared:
    """Prepare the folder of the run; nothing leaves the machine. Raises a RoundsError."""
    from training import evaluation

    run = find_run(asked.run)
    model = _published(run, asked)
    places = [asked.evidence] if asked.evidence else [run.folder, run.folder.parent]
    subject = asked.agent or ("grpo" if model.reinforced else "sft")
    how = evaluation.how_to_evaluate(run.folder, run.config, _task(run))
    found = evaluation.read(places, subject, how)
    _refuse_another_model(run, found)
    _same_model(run, model, asked)
    return prepare(run, model, found, asked.traces, _say)


def _published(run: Run, asked: argparse.Namespace) -> Published:
    from training.evidence import read_lines
    from training.model_card import Published

    base = asked.base or _hub_id(run)
    what = asked.what or ("adapter" if run.adapter is not None and base else "merged")
    if what == "adapter" and run.adapter is None:
        raise CannotPublish(
            f"{run.folder} has no adapter: all weights were trained; publish it with --what merged"
        )
    if what == "adapter" and base is None:
        raise CannotPublish(
            f"the adapter was trained on {run.base}, a folder that nobody else has: publish that first and"
            " name it with --base user/name, or publish with --what merged"
        )
    journal = read_lines(run.folder / "metrics.jsonl")
    last = journal[-1] if journal else {}
    repo = hub_upload.check_repo(asked.to)
    return Published(
        repo=repo,
        what=what,
        base=hub_upload.check_repo(base) if base else None,
        benchmark=hub_upload.check_repo(asked.benchmark or f"{repo.split('/')[0]}/rounds"),
        license=asked.license or (None if base else "mit"),
        record=run.record,
        config=run.config,
        seconds=last.get("seconds"),
        steps=last.get("step"),
    )


def _hub_id(run: Run) -> str | None:
    """The Hub id of the model that training began with, unless it was built here or is a folder."""
    from training.tiny import SIZES

    begun = run.record.get("init") if run.adapter is None else run.base
    if not begun or begun in SIZES or Path(str(begun)).exists() or Path(str(begun)).is_absolute():
        return None
    return str(begun)


def _task(run: Run) -> str:
    tasks = [str(one["task"]) for one in run.record.get("trained_on", [])]
    return tasks[-1] if tasks else "review_easy"


def _refuse_another_model(run: Run, found: Evaluation) -> None:
    """Raise CannotPublish where other weights were measured; warn where only their dates tell."""
    from eval.language import fingerprint

    measured = found.identity
    if measured is not None and "+" not in measured and measured != fingerprint(run.model):
        raise CannotPublish(
            f"{found.files[0]} measured other weights than those in {run.model}; measure these, or give"
            " the run whose table it is"
        )
    written = max((p.stat().st_mtime for p in run.model.glob("*.safetensors")), default=0.0)
    if found.files[0].stat().st_mtime < written:
        _say(f"warning: {found.files[0]} is older than the weights; is it of this model?")


def _same_model(run: Run, model: Published, asked: argparse.Namespace) -> None:
    """Raise NotTheSame where adapter and merged model differ; a run without adapter has one model."""
    if run.adapter is None:
        _say("all weights were trained: there is no adapter to hold against the model")
        return
    if not run.base:
        raise CannotPublish(f"{run.adapter} does not say what it was trained on")
    from training.merge_check import agreement, prompts_of

    record = run.record
    first = (record.get("trained_on") or [{"family": "polypharmacy", "task": "review_easy"}])[-1]
    texts = prompts_of(run.model, first["family"], first["task"], str(record.get("style", "full")))
    _say(str(agreement(_start(run), run.adapter, run.model, texts, asked.tolerance)))


def _start(run: Run) -> str:
    """What the adapter's base is loaded from."""
    named = str(run.base)
    if Path(named).is_absolute() and not Path(named).exists():
        raise CannotPublish(
            f"the adapter's base {named} is gone, so it cannot be held against the merged model; put it back"
        )
    return named


def _show(prepared: Prepared) -> None:
    """The folder as a tree with sizes, what was taken out, and the card's beginning."""
    from rich.console import Console
    from rich.filesize import decimal
    from rich.markup import escape

    from training.model_card import preview

    console = Console(soft_wrap=True, highlight=False)
    total = sum(size for _, size in prepared.files)
    console.print(f"{prepared.folder}/  {len(prepared.files)} files, {decimal(total)}")
    for name, size in prepared.files:
        console.print(f"  {decimal(size):>10}  {escape(name)}")
    console.print(f"\nredacted: {len(prepared.redactions) or 'nothing'}")
    for one in prepared.redactions[:20]:
        console.print(f"  {escape(str(one))}")
    if len(prepared.redactions) > 20:
        console.print(f"  … {len(prepared.redactions) - 20} more")
    print(f"\n{preview((prepared.folder / 'README.md').read_text(encoding='utf-8'))}")


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m training.publish`: prepare, show, and unless --dry-run upload."""
    asked = arguments().parse_args(argv)
    try:
        hub_upload.check_repo(asked.to)
        prepared = publish(asked)
        _show(prepared)
        if asked.dry_run:
            print(
                f"\ndry run: nothing was sent. Look at {prepared.folder}/, then leave out --dry-run"
            )
            return 0
        _say(f"uploading {len(list(listing(prepared.folder)))} files to {asked.to}")
        target = hub_upload.Target(asked.to, True if asked.private else None, asked.branch)
        address = hub_upload.upload(prepared.folder, target, asked.message)
    except (RoundsError, OSError) as wrong:
        print(f"error: {wrong}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        _say("interrupted; the same command goes on: what has arrived is not sent again")
        return 130
    print(f"\npublished: {address}")
    return 0


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.publish",
        description="Publish a finished run on the Hugging Face Hub, with a card made from its evaluation.",
        epilog="The token comes from HF_TOKEN or `hf auth login`, never from a flag. HF_ENDPOINT names another Hub.",
    )
    add: Any = parser.add_argument
    add("run", type=Path, metavar="RUN", help="folder of a finished run, like runs/demo")
    add("--to", required=True, metavar="USER/NAME", help="the repository; made where it is missing")
    add("--dry-run", action="store_true", help="prepare RUN/publish and show it; needs no token")
    add("--private", action="store_true", help="make the repository private, where it is made")
    add("--branch", "--revision", help="branch to commit to; made where it is missing")
    add(
        "--what",
        choices=("adapter", "merged"),
        help="default: the adapter where its base is on the Hub, else the merged model",
    )
    add(
        "--base",
        metavar="USER/NAME",
        help="the adapter's base on the Hub, where it was a folder here",
    )
    add("--evidence", type=Path, help="folder with before_after.json, or of eval.compare --run")
    add("--agent", help="the model's name in that table (default: grpo, or sft for a warm start)")
    add("--benchmark", metavar="USER/NAME", help="Hub dataset that .eval_results belong to")
    add("--license", help="of the weights (default: mit for a model built here)")
    add("--traces", type=int, default=20, help="validation episodes to show (default: %(default)s)")
    add(
        "--tolerance",
        type=float,
        help="largest difference of a logit, adapter to merged model"
        f" (default: {EXACT} for float32 weights, {HALF} for half precision)",
    )
    add("--message", default="Publish a Rounds run", help="of the commit")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
