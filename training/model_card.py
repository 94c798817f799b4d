"""The page of a published model: what it is, how good it was and on whom, and what it must not be used for.

Every figure comes from the evaluation and the run's own records; nothing is rounded up. Knows the
Hub's metadata (`model-index`, `.eval_results/`); nothing of weights or of uploading.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from env_server.contract import JsonObject
from eval import table
from eval.rows import Row
from training.evaluation import Evaluation

DISCLAIMER = "Research only, not medical advice."
CURVE = "reward_curve.png"
KNOBS = (  # of a run's config, those that a reader asks for first
    "learning_rate",
    "lr",
    "max_steps",
    "steps",
    "num_generations",
    "per_device_train_batch_size",
    "batch",
    "gradient_accumulation_steps",
    "lora_r",
    "lora_alpha",
    "temperature",
    "beta",
    "loss_type",
    "seed",
)
_TAGS = ("rounds", "openenv", "reinforcement-learning", "trl", "medical", "research-only")


@dataclass(frozen=True, slots=True)
class Published:
    """What a card has to know of a model.

    repo: where it goes, `user/name`. what: `adapter` or `merged`. base: the Hub id it was made from,
    None for a model built here. benchmark: the Hub dataset that the results belong to.
    record: the model's rounds.json. config: the run's. seconds: of its training loop.
    """

    repo: str
    what: str
    base: str | None
    benchmark: str
    license: str | None
    record: Mapping[str, Any]
    config: Mapping[str, Any]
    seconds: float | None
    steps: int | None

    @property
    def name(self) -> str:
        return self.repo.split("/")[-1]

    @property
    def reinforced(self) -> bool:
        return "num_generations" in self.config


def card(model: Published, found: Evaluation) -> str:
    """README.md: metadata in YAML, then the page."""
    return f"---\n{metadata(model, found)}\n---\n\n{_page(model, found)}"


# -- what machines read --------------------------------------------------------------------------


def metadata(model: Published, found: Evaluation) -> str:
    """The YAML block, as huggingface_hub writes and validates it."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="reinforcement-learning",
            task_name="Sequential clinical decisions",
            dataset_type=model.benchmark,
            dataset_name=f"Rounds {row.family}: {row.task}",
            dataset_config=row.task,
            dataset_split=row.split,
            dataset_revision=version_of(model, found, row.family),
            dataset_args={"patients": row.n, **_seeds(found)},
            metric_type=kind,
            metric_name=name,
            metric_value=round(value, 4),
            metric_args=args,
        )
        for row in found.own
        for kind, name, value, args in _metrics(row)
    ]
    data = ModelCardData(
        language="en",
        license=model.license,
        library_name="peft" if model.what == "adapter" else "transformers",
        pipeline_tag="text-generation",
        base_model=model.base,
        tags=[*_TAGS, *(["grpo"] if model.reinforced else ["sft"]), *_families(found)],
        model_name=model.name,
        eval_results=results,
    )
    return str(data.to_yaml())


def eval_results(model: Published, found: Evaluation) -> dict[str, str]:
    """`.eval_results/`: file name -> YAML, one a task, in the form of the Hub's leaderboards."""
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    told: dict[str, str] = {}
    for row in found.own:
        if row.score is None:
            continue
        entry = EvalResultEntry(
            dataset_id=model.benchmark,
            task_id=row.task,
            value=round(row.score, 4),
            date=found.day,
            notes=f"score, {row.n} {row.split} patients{_seed_words(found)}, 95 % interval"
            f" {row.score_low:.3f} to {row.score_high:.3f}, temperature {found.temperature:g},"
            f" environment {row.family} {version_of(model, found, row.family)}",
        )
        body = eval_result_entries_to_yaml([entry])
        told[f"rounds_{row.task}.yaml"] = yaml.safe_dump(body, sort_keys=False, width=1000)
    return told


def version_of(model: Published, found: Evaluation, family: str) -> str:
    """The environment's version: as measured, else as trained in; `unknown` where nobody wrote it."""
    return str(found.version or model.record.get("versions", {}).get(family, "unknown"))


def _metrics(row: Row) -> list[tuple[str, str, float, JsonObject | None]]:
    interval = {"ci95_low": row.score_low, "ci95_high": row.score_high}
    told: list[tuple[str, str, float | None, JsonObject | None]] = [
        ("score", "Score (0 to 1)", row.score, {k: _short(v) for k, v in interval.items()}),
        ("return", "Episode return", row.episode_return, None),
        ("regret", "Score of the reference less its own", row.regret, None),
        ("refusal_share", "Share of refused answers", row.refusal_share, None),
    ]
    return [(kind, name, value, args) for kind, name, value, args in told if value is not None]


def _seeds(found: Evaluation) -> JsonObject:
    return {} if found.seeds is None else {"seed_from": found.seeds[0], "seed_to": found.seeds[1]}


def _seed_words(found: Evaluation) -> str:
    return "" if found.seeds is None else f" (seeds {found.seeds[0]} to {found.seeds[1]})"


def _families(found: Evaluation) -> list[str]:
    return list(dict.fromkeys(row.family for row in found.own))


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


# -- what people read ----------------------------------------------------------------------------


def _page(model: Published, found: Evaluation) -> str:
    parts = [
        f"# {model.name}",
        f"**{DISCLAIMER}** Every patient and target in it is simulated; no output may guide the care of anyone.",
        _what_it_is(model),
        "## How good it is",
        *(_verdict(row, found) for row in found.own),
        table.markdown([row for row in found.rows if row.task != "all"]).strip(),
        f"![Reward during training]({CURVE})",
        _measured_how(model, found),
        "## Limits",
        "\n".join(f"- {limit}" for limit in limits(model, found)),
        "## Use",
        _use(model),
        "## How it was made",
        _made(model, found),
    ]
    return "\n\n".join(parts) + "\n"


def _what_it_is(model: Published) -> str:
    tasks = _tasks(model)
    origin = (
        f"`{model.base}`" if model.base else "a small model built from the environment's own words"
    )
    form = "A LoRA adapter on" if model.what == "adapter" else "Made from"
    how = (
        "warm-started by imitation, then improved by GRPO on whole episodes"
        if model.reinforced
        else "trained by imitation (SFT)"
    )
    return (
        f"{form} {origin}, {how} of the Rounds environment: {', '.join(f'`{t}`' for t in tasks)}."
        " It reads a case as a chat and answers with one JSON action a turn."
    )


def _tasks(model: Published) -> list[str]:
    return list(dict.fromkeys(str(one["task"]) for one in model.record.get("trained_on", [])))


def _verdict(row: Row, found: Evaluation) -> str:
    if row.score is None:
        return f"`{row.task}`: not measured ({row.note})."
    others = {
        other.role: other
        for other in found.rows
        if other.task == row.task and other.role in {"heuristic", "reference"}
    }
    beside = [f"{o.agent} {o.score:.3f}" for o in others.values() if o.score is not None]
    gained = (
        f"; {row.diff:+.3f} ({row.diff_low:+.3f} to {row.diff_high:+.3f}) against {row.baseline}"
        if None not in (row.diff, row.diff_low, row.diff_high)
        else ""
    )
    return (
        f"`{row.task}`: score **{row.score:.3f}** (95 % interval {row.score_low:.3f} to"
        f" {row.score_high:.3f}) on {row.n} {row.split} patients{gained}."
        + (f" Beside it: {', '.join(beside)}." if beside else "")
    )


def _measured_how(model: Published, found: Evaluation) -> str:
    versions = ", ".join(f"{f} {version_of(model, found, f)}" for f in _families(found))
    where = str(found.machine.get("gpu") or found.machine.get("platform") or "a machine not told")
    return (
        f"Patients: {_seed_words(found).strip(' ()') or 'seeds not told'}; none of them was trained on. Temperature"
        f" {found.temperature:g}. Environment: {versions}. Measured {found.day} on {where}. The record is"
        " in `evaluation/`, the same figures in `.eval_results/`."
    )


def limits(model: Published, found: Evaluation) -> list[str]:
    """What speaks against the model, figures first."""
    said = [_weakness(row, found.rows) for row in found.own]
    return [
        *[one for one in said if one],
        "One training seed: another one may end higher or lower by more than the interval, which is over patients alone.",
        "Train and test patients come from the same generator. Nothing here says how it would do on real records.",
        "The score is the environment's: what it does not charge for, the model has not learned to avoid.",
        f"{DISCLAIMER} Not a medical device, not validated on people, no warranty.",
    ]


def _weakness(row: Row, rows: Sequence[Row]) -> str:
    better = [
        other.agent
        for other in rows
        if other.task == row.task
        and other.role in {"heuristic", "canary"}
        and None not in (other.score, row.score)
        and other.score >= row.score  # type: ignore[operator]  # neither is None
    ]
    facts = [
        f"{100 * row.refusal_share:.1f} % of its answers were refused" if row.refusal_share else "",
        f"{100 * row.overcall_share:.0f} % of patients who needed no change got one"
        if row.overcall_share
        else "",
        f"{', '.join(better)} did as well or better without learning" if better else "",
        f"its score is {row.regret:.3f} below the reference's" if row.regret else "",
        f"only {row.n} patients" if row.n < table.FEW else "",
    ]
    told = "; ".join(filter(None, facts))
    return f"`{row.task}`: {told}." if told else ""


def _use(model: Published) -> str:
    if model.what == "adapter":
        load = (
            "from peft import AutoPeftModelForCausalLM\nfrom transformers import AutoTokenizer\n\n"
            f'model = AutoPeftModelForCausalLM.from_pretrained("{model.repo}")\n'
        )
    else:
        load = (
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f'model = AutoModelForCausalLM.from_pretrained("{model.repo}")\n'
        )
    player = "adapter" if model.what == "adapter" else "local"
    tasks = " ".join(_tasks(model)) or "review_easy"
    return (
        f'```python\n{load}tokenizer = AutoTokenizer.from_pretrained("{model.repo}")\n```\n\n'
        "To measure it again, beside others and on the same patients, from a checkout of Rounds:\n\n"
        f"```\nhf download {model.repo} --local-dir {model.name}\n"
        f"python -m eval.compare --tasks {tasks} --agents random,heuristic,{player}:{model.name},reference\n```"
    )


def _made(model: Published, found: Evaluation) -> str:
    knobs = [f"{name} {model.config[name]}" for name in KNOBS if model.config.get(name) is not None]
    seen = [
        f"`{one['task']}` {one['split']} seeds {one['seed_from']} to {int(one['seed_to']) - 1}"
        for one in model.record.get("trained_on", [])
    ]
    versions = [f"{k} {v}" for k, v in model.record.get("versions", {}).items()]
    lines = [
        f"- Learned from: {'; '.join(seen) or 'not told'}.",
        f"- Settings: {', '.join(knobs) or 'not told'}; all of them in `training/`.",
        f"- Versions: {', '.join(versions) or 'not told'}.",
    ]
    if model.seconds is not None:
        lines.append(f"- Training loop: {model.steps} steps in {model.seconds:.0f} s.")
    return "\n".join(lines)


def preview(text: str, lines: int = 60) -> str:
    """The card's first lines, for a terminal."""
    all_lines = text.splitlines()
    more = len(all_lines) - lines
    return "\n".join(all_lines[:lines]) + (f"\n… {more} more lines" if more > 0 else "")


def draw_curve(path: Path, steps: Sequence[JsonObject], looks: Sequence[JsonObject]) -> None:
    """Reward (or loss, of a warm start) by step, and validation where there was some, as PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    key = "reward" if any("reward" in step for step in steps) else "loss"
    told = [step for step in steps if key in step]
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    axes.plot(
        [s["step"] for s in told], [s[key] for s in told], color="#1f6fb2", label=f"{key}, train"
    )
    seen = [look for look in looks if "return" in look]
    if seen and key == "reward":
        at, returns = [look["step"] for look in seen], [look["return"] for look in seen]
        axes.plot(at, returns, "o-", color="#c4452f", label="return, validation")
    axes.set(xlabel="step", ylabel=key)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.25)
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)
