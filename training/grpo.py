"""Reinforcement: a policy plays whole episodes and learns from what they paid, by TRL's GRPO.

Knows how a run is set up, resumed and handed over; how episodes become rows is `rollout.py`'s
business, which checkpoint is the best one `examiner.py`'s.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.loader import ConfigError
from env_server.contract import Family, JsonObject, RoundsError
from training import extras, threads
from training.cases import cases, owners, prompts
from training.grpo_settings import GrpoSettings, parse, resolved, usage
from training.handover import hand_over, wording

if TYPE_CHECKING:
    from trl import GRPOConfig

    from eval.door import Door
    from training.rollout import Rollout
    from training.watch import Progress

threads.settle()


class BadStart(RoundsError, RuntimeError):
    """The run cannot begin or go on where it was sent."""


def train(settings: GrpoSettings, config: GRPOConfig, progress: Progress | None = None) -> Path:
    """Run or resume; returns the folder of the merged model.

    Raises BadStart, ConfigError, TooManyLost, ServerDidNotStart, or watch.Interrupted (saved).
    """
    from training import guards
    from training.examiner import BEST
    from training.sft import ROUNDS

    families = owners(settings)
    run = _open_run(settings, config)
    if (run / "model" / ROUNDS).is_file():
        return run / "model"
    with ExitStack() as held:
        door = held.enter_context(open_door(settings, families, run))
        trainer, rollout = _trainer(settings, config, run, door, progress)
        _preflight(trainer, rollout, settings, config, run)
        _fit(trainer, rollout, config, run)
    with guards.disk_full_explained(run):
        if not (run / BEST).is_dir():
            _keep_last(trainer, run / BEST)  # no validation to choose by
        if trainer.is_world_process_zero():
            hand_over(trainer, settings, config, run)
        trainer.accelerator.wait_for_everyone()
    return run / "model"


@contextmanager
def open_door(settings: GrpoSettings, families: Mapping[str, Family], run: Path) -> Iterator[Door]:
    """The way to the environment: in process, to a given server, or to one started for this run.

    `families`: whose each task is; several of them share one server.
    """
    from eval.door import LocalDoor, MixedDoor, RemoteDoor
    from training.own_server import own_server

    named = {family.name: family for family in families.values()}
    with ExitStack() as held:
        doors: dict[str, Door] = {}
        if settings.in_process:
            doors = {name: LocalDoor(family) for name, family in named.items()}
        else:
            url = settings.env_url or held.enter_context(own_server(run / "server.log"))
            patience_s = settings.env_patience_s
            doors = {
                name: RemoteDoor(url, one, settings.seats, patience_s)
                for name, one in named.items()
            }
        for door in doors.values():
            held.callback(door.close)
        if len(doors) == 1:
            yield next(iter(doors.values()))
        else:
            yield MixedDoor({task: doors[family.name] for task, family in families.items()})


def _trainer(
    settings: GrpoSettings, config: GRPOConfig, run: Path, door: Door, progress: Progress | None
) -> tuple[Any, Rollout]:
    import datasets
    import torch
    from peft import LoraConfig
    from transformers import PrinterCallback, set_seed
    from transformers.utils import logging as transformers_logging
    from trl import GRPOTrainer

    from training import importance, ragged, watch
    from training.rollout import episode_return, score
    from training.sft import load_start

    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(settings.cpu_threads)
    set_seed(config.seed)
    cpu = config.use_cpu or not torch.cuda.is_available()
    model, tokenizer = load_start(settings.model, settings.lora_r > 0, cpu, settings.quantize)
    config.output_dir = str(run / "checkpoints")
    config.reward_weights = [settings.return_weight, settings.score_weight]
    rewards: list[Any] = [episode_return, score]
    rollout = _rollout(settings, door, config.seed)
    lora = LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    learner = ragged.trimmed(importance.weighed(GRPOTrainer), settings.length_groups)
    trainer = learner(
        model=model,
        processing_class=tokenizer,
        reward_funcs=rewards,
        args=config,
        train_dataset=datasets.Dataset.from_list(
            [{"prompt": prompt} for prompt in prompts(settings, config)]
        ),
        rollout_func=rollout,
        peft_config=lora if settings.lora_r else None,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(watch.Journal(run / "metrics.jsonl", "grpo", progress))
    if settings.validation_patients:
        _examine(trainer, settings, rollout, run)
    return trainer, rollout


def _rollout(settings: GrpoSettings, door: Door, seed: int) -> Rollout:
    from eval.dialogue import Limits
    from training.curriculum import Curriculum
    from training.rollout import RolloutSettings, make_rollout_func

    return make_rollout_func(
        door,
        RolloutSettings(
            limits=Limits(settings.answer_tokens, settings.context_tokens),
            style=wording(settings),
            max_lost_share=settings.max_lost_share,
            template_options={"enable_thinking": settings.thinking},
            keep_cache=settings.keep_cache,
            answer_schema=_schema(settings, door) if settings.structured else None,
        ),
        Curriculum(tuple(settings.tasks), seed, settings.seed_from)
        if settings.curriculum
        else None,
    )


def _schema(settings: GrpoSettings, door: Door) -> JsonObject:
    from training.structured import answer_schema

    played = {door.family_of(task).name: door.family_of(task) for task in settings.tasks}
    return answer_schema(played.values())


def _examine(trainer: Any, settings: GrpoSettings, rollout: Rollout, run: Path) -> None:
    from eval.dialogue import Limits
    from training.examiner import Examiner

    examiner = Examiner(
        rollout,
        cases(settings, "validation", settings.validation_patients, seed_from=0),
        Limits(settings.answer_tokens, settings.context_tokens),
        settings.validation_every,
        run,
        settings.validation_temperature,
        settings.patience,
    )
    examiner.trainer = trainer
    trainer.add_callback(examiner)


def _preflight(
    trainer: Any,
    rollout: Rollout,
    settings: GrpoSettings,
    config: GRPOConfig,
    run: Path,
) -> None:
    """Prove the rollout on the first patients, before a run that begins; writes `proof.json`.

    Draws from a stream of its own, so that a run learns the same with or without it.
    Raises NotProved.
    """
    import torch

    from training import prove
    from training.rollout import asking

    if not settings.preflight_groups or _last_checkpoint(run) is not None:
        return
    tokenizer = trainer.processing_class
    proofs = []
    with torch.random.fork_rng(), asking(trainer, rollout.settings) as generate:
        torch.manual_seed(config.seed)
        for requests in prove.probe(
            settings.tasks, settings.preflight_groups, config.num_generations, settings.seed_from
        ):
            model = None if _sharded(trainer) else trainer.accelerator.unwrap_model(trainer.model)
            proofs.append(
                prove.prove(rollout, requests, generate, tokenizer, model, config.temperature)
            )
    if trainer.is_world_process_zero():
        told = json.dumps([proof.to_json() for proof in proofs], indent=2)
        (run / "proof.json").write_text(told + "\n", encoding="utf-8")
        for sentence in [one for proof in proofs for one in proof.advice()]:
            print(f"preflight: {sentence}", file=sys.stderr)
    prove.demand(proofs)


def _sharded(trainer: Any) -> bool:
    """Whether no process holds the whole model, so that a plain forward pass is not plain."""
    return bool(
        trainer.is_fsdp_enabled
        or (
            trainer.is_deepspeed_enabled
            and trainer.accelerator.state.deepspeed_plugin.zero_stage == 3
        )
    )


def _keep_last(trainer: Any, best: Path) -> None:
    """Keep the weights of the last step as the best ones, in place only once they are whole."""
    half = best.with_name(f"{best.name}.part")
    trainer.save_model(str(half))
    if trainer.is_world_process_zero():
        half.rename(best)


def _last_checkpoint(run: Path) -> Path | None:
    from training import watch

    return watch.last_checkpoint(run / "checkpoints")


def _fit(trainer: Any, rollout: Rollout, config: GRPOConfig, run: Path) -> None:
    from training import guards, watch
    from training.curriculum import KeepsCurriculum

    checkpoint = _last_checkpoint(run)
    if rollout.curriculum is not None:
        keeper = KeepsCurriculum(rollout.curriculum)
        trainer.add_callback(keeper)
        if checkpoint is not None:
            keeper.restore(checkpoint)
    with watch.stoppable() as stop, guards.disk_full_explained(run):
        trainer.add_callback(stop)
        trainer.add_callback(guards.Guards(run))
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    step = trainer.state.global_step
    if stop.asked.is_set() and step < config.max_steps:
        raise watch.Interrupted(
            f"stopped at step {step} of {config.max_steps}, checkpoint in {run / 'checkpoints'};"
            " the same command goes on from there"
        )


def _open_run(settings: GrpoSettings, config: GRPOConfig) -> Path:
    """The run's folder, ours to write to, holding this very configuration."""
    run = Path(settings.output)
    asked = resolved(settings, config)
    written = run / "config.json"
    try:
        run.mkdir(parents=True, exist_ok=True)
        if not written.is_file():
            part = run / f"config.{os.getpid()}.part"  # several processes may open the run at once
            part.write_text(json.dumps(asked, indent=2) + "\n", encoding="utf-8")
            part.rename(written)
    except OSError as error:
        raise BadStart(
            f"cannot write to {run} ({error.strerror}); choose another --output"
        ) from error
    before = json.loads(written.read_text(encoding="utf-8"))
    changed = sorted(k for k in {*asked, *before} if asked.get(k) != before.get(k))
    if changed:
        raise BadStart(
            f"{run} holds a run with another {', '.join(changed)}"
            f" ({', '.join(f'{k}={before.get(k)!r}' for k in changed)});"
            " choose another --output, or delete that folder"
        )
    return run


def main(argv: Sequence[str] | None = None) -> int:
    asked = sys.argv[1:] if argv is None else list(argv)
    if "-h" in asked or "--help" in asked:
        print(usage())
        return 0
    os.environ.setdefault("WANDB_SILENT", "true")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\..*")
    try:
        extras.demand("torch", "transformers", "trl", "peft", "datasets")
    except extras.NotInstalled as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    from training import watch

    try:
        settings, config = parse(asked)
        with watch.line() as progress:
            model = train(settings, config, progress)
    except (ConfigError, RoundsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except watch.Interrupted as stopped:
        print(stopped, file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print(watch.AT_ONCE, file=sys.stderr)
        return 130
    print(model)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
