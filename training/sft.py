"""The warm start: a model learns an environment's moves from conversations that are worth imitating.

Long because every knob stands here with the sentence that `--help` shows.

TRL's SFTTrainer with loss on the assistant's tokens alone; the result is merged and saved for GRPO.
Knows nothing of rewards.
"""

from __future__ import annotations

import json
import platform
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from configs.loader import ConfigError
from env_server import registry
from env_server.contract import JsonObject, RoundsError
from prompts.render import Style
from training import extras, flags, ranks, threads
from training.dataset import Collection, Mixture, collect, collection, part, write
from training.run_folder import BadRun, open_run

if TYPE_CHECKING:
    from training.watch import Progress

threads.settle()

ROUNDS = "rounds.json"  # beside the model: what it was trained on, and how it is spoken to


@dataclass(frozen=True, slots=True)
class SftConfig:
    """One warm start."""

    output: str
    """Folder of the run; the merged model comes to <output>/model. The same command resumes it."""
    family: str = "polypharmacy"
    """The environment family that is played."""
    tasks: tuple[str, ...] = ("review_easy",)
    """Tasks whose train patients are played, in turn."""
    init: str = "tiny"
    """`tiny` (or another size of training/tiny.py) builds a model here; anything else is a Hub id or a path."""
    agents: tuple[str, ...] = ("heuristic",)
    """Agents to imitate, one drawn for every episode."""
    noise: tuple[float, ...] = (0.0, 0.3, 0.3, 1.0)
    """Shares of random legal moves, one drawn for every episode; without noise GRPO barely improves."""
    slips: tuple[float, ...] = (0.0,)
    """Shares of turns at which a refused answer is shown, not learned; for a model built here."""
    episodes: int = 6400
    """Conversations to collect."""
    seed_from: int = 0
    """The first train patient's seed."""
    min_score: float | None = None
    """Keep a conversation only if it scores this much; none keeps all."""
    style: Literal["brief", "full"] | None = None
    """Wording of the prompts; none means brief for a model built here, full for any other."""
    steps: int = 800
    """Optimizer steps."""
    batch: int = 16
    """Conversations a step and device."""
    accumulate: int = 1
    """Batches whose gradients are summed before a step."""
    lr: float = 3e-3
    """Peak learning rate; 2e-4 suits LoRA on a model of 0.5 B."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Adam's decay rates."""
    schedule: str = "cosine"
    """Shape of the learning rate after warm-up."""
    warmup: int = 40
    """Steps over which the learning rate rises."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    max_length: int | None = None
    """Longest conversation in tokens, none for the model's own context; longer ones are left out."""
    lora_r: int = 0
    """Rank of LoRA adapters on every linear layer; 0 trains all weights."""
    lora_alpha: int = 32
    """Scale of the adapters."""
    reading: float = 0.0
    """Weight of the tokens outside the answers, for a model built here: it has never read anything else."""
    checkpointing: bool = False
    """Recompute activations to save memory; slows a small model down."""
    device: Literal["auto", "cpu"] = "auto"
    """`cpu` leaves a GPU alone."""
    threads: int = 1
    """CPU threads of torch; more than one gains little for a tiny model (training.demo --ranks gains more)."""
    log_every: int = 10
    """Steps between two lines of metrics.jsonl."""
    save_every: int = 200
    """Steps between two checkpoints."""
    wandb: bool = False
    """Also log to wandb: offline, unless WANDB_API_KEY is set."""
    seed: int = 0
    """Seeds the weights and the order of the conversations."""

    def __post_init__(self) -> None:
        for knob in (
            "episodes",
            "steps",
            "batch",
            "accumulate",
            "threads",
            "log_every",
            "save_every",
        ):
            if getattr(self, knob) < 1:
                raise ValueError(f"{knob} is {getattr(self, knob)}; it must be at least 1")
        if not self.lr > 0:
            raise ValueError(f"lr is {self.lr}; it must be above 0")
        if not 0 <= self.reading <= 1:
            raise ValueError(f"reading is {self.reading}; it lies in 0..1")
        if self.reading and self.lora_r:
            raise ValueError("reading is for all weights of a model built here; set lora_r to 0")
        if not self.tasks:
            raise ValueError("tasks is empty; name at least one")
        for share in self.noise:
            if not 0 <= share <= 1:
                raise ValueError(f"noise holds {share}; shares lie in 0..1")
        for share in self.slips:
            if not 0 <= share < 1:
                raise ValueError(f"slips holds {share}; shares lie in 0..1, 1 left out")

    @property
    def wording(self) -> Style:
        """The prompt style this run speaks."""
        from training.tiny import SIZES

        return self.style or ("brief" if self.init in SIZES else "full")

    def mixture(self) -> Mixture:
        return Mixture(
            family=self.family,
            tasks=self.tasks,
            episodes=self.episodes,
            agents=self.agents,
            noise=self.noise,
            slips=self.slips,
            seed_from=self.seed_from,
            min_score=self.min_score,
            style=self.wording,
        )


def train(config: SftConfig, progress: Progress | None = None) -> Path:
    """Run or resume the warm start; returns the folder of the merged model.

    Raises BadRun (output or model unusable), watch.Interrupted (stopped on request, checkpoint saved).
    """
    with ranks.first_one_first(_on_cpu(config)):
        run = open_run(config.output, config)
        if (run / "model" / ROUNDS).is_file():
            return run / "model"
        start = _starting_point(config, run)
    played = _played(config, progress if ranks.rank() == 0 else None)
    if ranks.rank() == 0:
        write(played, run / "dataset")
    trainer = make_trainer(config, run, start, played, _kind(config))
    _fit(trainer, config, run, progress)
    if ranks.rank() == 0:
        _save(trainer, config, run, played)
    trainer.accelerator.wait_for_everyone()
    return run / "model"


def _played(config: SftConfig, progress: Progress | None) -> Collection:
    """The conversations, of which every rank plays its share where none may be turned down."""

    def tick(kept: int) -> None:
        if progress:
            progress("play", min(kept * ranks.world(), config.episodes), config.episodes, {})

    mixture = config.mixture()
    if ranks.world() == 1 or mixture.min_score is not None:
        return collect(mixture, tick)
    own = part(mixture, ranks.rank(), ranks.world(), tick)
    return collection(mixture, ranks.in_order(own), config.episodes)


def _starting_point(config: SftConfig, run: Path) -> str:
    """What from_pretrained is to load: a folder built here, or `init` itself."""
    from training import tiny

    if config.init not in tiny.SIZES:
        return config.init
    built = run / "init"
    if not (built / "config.json").is_file():
        half = run / "init.part"
        shutil.rmtree(half, ignore_errors=True)
        tiny.build(half, config.family, config.tasks, config.seed, config.init, config.wording)
        half.rename(built)
    return str(built)


def load_start(start: str, lora: bool, cpu: bool, quantize: bool = False) -> tuple[Any, Any]:
    """(model, tokenizer) from a folder or the Hub. Raises BadRun where there is nothing to load.

    quantize: in 4 bits (QLoRA); wants a GPU and bitsandbytes.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # full training keeps weights in float32: in bfloat16 small updates vanish
    half = lora and not cpu and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    if _meant_as_folder(start) and not Path(start).is_dir():
        raise BadRun(
            f"cannot load model {start!r}: there is no such folder. A warm start makes one:"
            " python -m training.sft --output RUN leaves RUN/model; init=tiny needs none"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(start)
        model = AutoModelForCausalLM.from_pretrained(
            start,
            dtype=torch.bfloat16 if half else torch.float32,
            **({"quantization_config": _four_bits(cpu)} if quantize else {}),
        )
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadRun(
            f"cannot load model {start!r}: {first}. It must be a folder that save_pretrained wrote or a "
            "model on the Hub that this machine can reach; init=tiny needs neither"
        ) from error
    if not tokenizer.chat_template:
        raise BadRun(f"the tokenizer of {start!r} has no chat template; take an instruct model")
    return model, tokenizer


def _meant_as_folder(start: str) -> bool:
    """Whether it can be no Hub id: those are NAME or OWNER/NAME."""
    return start.count("/") > 1 or start.startswith((".", "/", "~", "runs/"))


def _four_bits(cpu: bool) -> Any:
    """QLoRA's quantisation. Raises BadRun where it cannot run."""
    from importlib.util import find_spec

    import torch
    from transformers import BitsAndBytesConfig

    if cpu:
        raise BadRun("quantize (QLoRA) needs a GPU and there is none; leave it out on a CPU")
    if find_spec("bitsandbytes") is None:
        raise BadRun("quantize (QLoRA) needs bitsandbytes: pip install 'rounds[qlora]'")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def _kind(config: SftConfig) -> Callable[..., Any] | None:
    """The cheaper loss where it can be had: all weights of a plain model."""
    from training import tiny
    from training.answers_only import AnswersOnlyTrainer

    if config.init in tiny.SIZES and not config.lora_r:
        return partial(AnswersOnlyTrainer, reading=config.reading)
    if any(config.slips) and config.init not in tiny.SIZES:
        raise BadRun(
            f"slips = {config.slips} needs a model built here: the template of {config.init!r} has no"
            " place for an answer that is shown and not learned"
        )
    if config.reading:
        raise BadRun(f"reading = {config.reading} needs a model built here, not {config.init!r}")
    return None


def _on_cpu(config: SftConfig) -> bool:
    import torch

    return config.device == "cpu" or not torch.cuda.is_available()


def make_trainer(
    config: SftConfig,
    run: Path,
    start: str,
    collection: Collection,
    kind: Callable[..., Any] | None = None,
) -> Any:
    """A TRL trainer (or one of `kind`) over these conversations, ready to train."""
    import datasets
    import torch
    from peft import LoraConfig
    from transformers import PrinterCallback, set_seed
    from trl import SFTConfig, SFTTrainer

    from training import watch

    watch.hush()
    if config.wandb:
        threads.keep_wandb_offline()
    torch.set_num_threads(config.threads)
    set_seed(config.seed)
    cpu = _on_cpu(config)
    model, tokenizer = load_start(start, config.lora_r > 0, cpu)
    trainer = (kind or SFTTrainer)(
        model=model,
        processing_class=tokenizer,
        train_dataset=datasets.Dataset.from_list(
            [{"messages": list(e.messages)} for e in collection.examples]
        ),
        peft_config=LoraConfig(
            r=config.lora_r,
            lora_alpha=config.lora_alpha,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        if config.lora_r
        else None,
        args=SFTConfig(
            output_dir=str(run / "checkpoints"),
            max_steps=config.steps,
            per_device_train_batch_size=config.batch,
            gradient_accumulation_steps=config.accumulate,
            learning_rate=config.lr,
            adam_beta1=config.betas[0],
            adam_beta2=config.betas[1],
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
            lr_scheduler_type=config.schedule,
            warmup_steps=config.warmup,
            assistant_only_loss=True,
            max_length=None,  # a conversation is learned whole or not at all
            train_sampling_strategy="group_by_length",  # a third less padding
            use_cpu=cpu,
            bf16=not cpu and torch.cuda.is_bf16_supported(),
            activation_checkpointing=config.checkpointing,
            logging_steps=config.log_every,
            save_steps=config.save_every,
            save_total_limit=2,
            report_to=["wandb"] if config.wandb else [],
            run_name=run.name,
            disable_tqdm=True,
            dataloader_pin_memory=not cpu,
            ddp_find_unused_parameters=False,  # there are none, and looking costs every step
            seed=config.seed,
            data_seed=config.seed,
        ),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train_dataset = _short_enough(trainer, config)
    return trainer


def _short_enough(trainer: Any, config: SftConfig) -> Any:
    """The conversations that fit the context. Raises BadRun where most do not."""
    context = getattr(trainer.model.config, "max_position_embeddings", None)
    limit = config.max_length or context
    whole = trainer.train_dataset
    if limit is None:
        return whole
    lengths = [len(ids) for ids in whole["input_ids"]]
    fitting = [i for i, length in enumerate(lengths) if length <= limit]
    if len(fitting) < len(lengths) / 2:
        raise BadRun(
            f"{len(lengths) - len(fitting)} of {len(lengths)} conversations are longer than {limit} tokens "
            f"(longest {max(lengths)}); raise max_length or take a model with a longer context"
        )
    if len(fitting) < len(lengths):
        print(
            f"{len(lengths) - len(fitting)} of {len(lengths)} conversations exceed {limit} tokens: left out",
            file=sys.stderr,
        )
    return whole.select(fitting)


def _fit(trainer: Any, config: SftConfig, run: Path, progress: Progress | None) -> None:
    from training import guards, watch

    trainer.add_callback(watch.Journal(run / "metrics.jsonl", "sft", progress))
    checkpoint = watch.last_checkpoint(run / "checkpoints")
    with watch.stoppable() as stop, guards.disk_full_explained(run):
        trainer.add_callback(stop)
        trainer.add_callback(guards.Guards(run))
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if stop.asked.is_set() and trainer.state.global_step < config.steps:
        raise watch.Interrupted(
            f"stopped at step {trainer.state.global_step} of {config.steps}, checkpoint in "
            f"{run / 'checkpoints'}; the same command goes on from there"
        )


def _save(trainer: Any, config: SftConfig, run: Path, collection: Collection) -> Path:
    """Merge, and put the model in place only once it is complete."""
    from training import guards

    model = trainer.accelerator.unwrap_model(trainer.model)
    if config.lora_r:
        model = model.merge_and_unload()
    half = run / "model.part"
    with guards.disk_full_explained(run):
        shutil.rmtree(half, ignore_errors=True)
        model.save_pretrained(half)
        trainer.processing_class.save_pretrained(half)
        (half / ROUNDS).write_text(json.dumps(record(config, collection), indent=2) + "\n")
        half.rename(run / "model")
    return run / "model"


def record(config: SftConfig, collection: Collection) -> JsonObject:
    """What `rounds.json` says of a trained model: the patients it has seen, its wording, the versions."""
    return {
        "trained_on": collection.trained_on(),
        "style": config.wording,
        "init": config.init,
        "versions": {
            config.family: collection.examples[0].version,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers", "trl", "peft")},
        },
    }


def main(argv: Sequence[str] | None = None) -> int:
    flags_given = flags.parser(
        SftConfig,
        "python -m training.sft",
        "Warm start: teach a model an environment's moves by imitation.",
        config="configs/sft/demo.yaml",
    ).parse_args(argv)
    try:
        config = flags.resolve(SftConfig, flags_given)
        registry.get(config.family)
        extras.demand("torch", "transformers", "trl", "peft", "datasets")
    except (ConfigError, RoundsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    from training import watch

    try:
        with watch.line() as progress:
            model = train(config, progress)
    except RoundsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except watch.Interrupted as stopped:
        print(stopped, file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print(watch.AT_ONCE, file=sys.stderr)
        return 130
    if ranks.rank() == 0:
        print(model)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
