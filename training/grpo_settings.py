"""What a GRPO run may be told: our own knobs beside TRL's, from a YAML file and from flags.

Knows names, sentences and defaults; nothing of what is done with them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from configs.loader import ConfigError, read
from env_server.contract import JsonObject, nearest
from training import extras, threads

if TYPE_CHECKING:
    from trl import GRPOConfig

threads.settle()
# where a run plays and lies does not change what it learns: it may be resumed elsewhere
ELSEWHERE = ("output", "env_url", "env_patience_s")


def _knob(default: Any, says: str) -> Any:
    """A field with its sentence, which `--help` shows."""
    return field(default=default, metadata={"help": says})


@dataclass(frozen=True)
class GrpoSettings:
    """What a run needs to know beside TRL's own GRPOConfig."""

    output: str = _knob("runs/grpo", "Folder of the run; the model comes to <output>/model.")
    model: str = _knob(
        "runs/sft/model", "Where to start: a warm-started model's folder, or a Hub id."
    )
    family: str = _knob("polypharmacy", "The environment family that is played.")
    tasks: list[str] = field(
        default_factory=lambda: ["review_easy"],
        metadata={
            "help": "Tasks whose train patients are played, in turn; other families' tasks may be among them."
        },
    )
    curriculum: bool = _knob(
        False, "Draw the tasks by how many of their groups still teach, instead of in turn."
    )
    seed_from: int = _knob(
        1_000_000, "First train patient; far from those of the warm start, which is no obligation."
    )
    patients: int = _knob(
        0, "Different train patients; 0 is as many as the steps need, each met once."
    )
    style: str = _knob(
        "", "Wording of the prompts, brief or full; empty is how the model was warm-started."
    )
    answer_tokens: int = _knob(64, "Cap of one answer; a longer one is refused as truncated.")
    context_tokens: int = _knob(2048, "Cap of a whole conversation, prompt included.")
    thinking: bool = _knob(False, "Let chat models that can think do so (enable_thinking).")
    keep_cache: bool = _knob(
        False,
        "Without vLLM: keep what was read from turn to turn (top_p 1, models with a plain cache).",
    )
    length_groups: int = _knob(
        1,
        "Passes over rows of like length that one update is made in; more compute less filling.",
    )
    structured: bool = _knob(
        False, "With vLLM: answers can be nothing but one of the action's JSON forms."
    )
    return_weight: float = _knob(1.0, "Weight of the episode's return in the reward.")
    score_weight: float = _knob(0.0, "Weight of the grader's score; 0 logs it only.")
    validation_patients: int = _knob(
        64, "Validation patients a look; 0 keeps the last step instead."
    )
    validation_every: int = _knob(10, "Steps between two looks at validation patients.")
    patience: int = _knob(
        0, "Looks without a better one after which the run ends early; 0 goes to max_steps."
    )
    validation_temperature: float = _knob(
        0.0, "0 looks at the greedy policy; 1 at the sampled one, which is what GRPO improves."
    )
    preflight_groups: int = _knob(
        4, "Patients a task on which the rollout is proved before the run begins; 0 leaves it out."
    )
    lora_r: int = _knob(0, "Rank of LoRA adapters on every linear layer; 0 trains all weights.")
    lora_alpha: int = _knob(32, "Scale of the adapters.")
    quantize: bool = _knob(
        False,
        "QLoRA: the frozen weights in 4 bits (NF4, double quantised); wants a GPU and lora_r.",
    )
    env_url: str = _knob(
        "", "Running environment servers, with commas between; empty starts one for this run."
    )
    env_patience_s: float = _knob(
        120.0, "Seconds that episodes wait for a server that is down or full before they are lost."
    )
    in_process: bool = _knob(False, "Play in this process, without a server.")
    seats: int = _knob(64, "Episodes that live on the server at once.")
    max_lost_share: float = _knob(
        0.1, "Above this share of lost episodes in a batch the run stops."
    )
    cpu_threads: int = _knob(1, "CPU threads of torch; more than one slows a tiny model down.")

    def __post_init__(self) -> None:
        wholes = ("answer_tokens", "context_tokens", "validation_every", "seats", "cpu_threads")
        for name in (*wholes, "length_groups"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("validation_temperature", "validation_patients", "preflight_groups", "patience",
                     "patients", "seed_from", "lora_r", "env_patience_s"):  # fmt: skip
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        if not 0 <= self.max_lost_share <= 1:
            raise ConfigError(f"max_lost_share is {self.max_lost_share}; it lies in 0..1")
        if self.context_tokens <= self.answer_tokens:
            raise ConfigError(
                f"context_tokens is {self.context_tokens}; one answer may take {self.answer_tokens}"
                " (answer_tokens), and the prompt wants room too"
            )
        if self.structured and self.thinking:
            raise ConfigError(
                "structured and thinking are both true: an answer held to JSON has no room for a thought"
            )
        if self.quantize and not self.lora_r:
            raise ConfigError("quantize is true and lora_r is 0: only adapters can learn on 4 bits")
        if self.style not in ("", "brief", "full"):
            raise ConfigError(f"style {self.style!r} is none of brief, full or empty")
        if not self.tasks:
            raise ConfigError("tasks is empty; name at least one")


def parse(argv: Sequence[str]) -> tuple[GrpoSettings, GRPOConfig]:
    """Settings and TRL's own, from `--config FILE` (defaults) and flags (which win).

    Raises ConfigError for an unknown key or flag, with the nearest known one, and NotInstalled.
    """
    extras.demand("torch", "transformers", "trl")
    import torch
    from trl import GRPOConfig, TrlParser

    parser = TrlParser((GrpoSettings, GRPOConfig), allow_abbrev=False)
    parser.error = _refuse  # argparse would print three hundred flags
    rest, values, source = _config_file(list(argv))
    quiet = {"report_to": "none", "logging_steps": 1, "disable_tqdm": True, "save_total_limit": 2}
    if not torch.cuda.is_available():  # TRL's own defaults are for GPUs
        quiet |= {"use_cpu": True, "bf16": False, "gradient_checkpointing": False}
        quiet |= {"dataloader_pin_memory": False, "ddp_find_unused_parameters": False}
    known = [action.dest for action in parser._actions]
    for key in values:
        if key not in known:
            raise ConfigError(f"{source}: no setting {key!r}{nearest(str(key), known)}")
    parser.set_defaults_with_config(**{**quiet, **values})
    try:
        settings, config, left = parser.parse_args_into_dataclasses(
            rest, return_remaining_strings=True
        )
    except ConfigError:
        raise
    except ValueError as error:  # GRPOConfig's own limits, and what this machine cannot do
        raise ConfigError(f"TRL refuses these settings: {' '.join(str(error).split())}") from error
    if left:
        flags = [f"--{name}" for name in known]
        raise ConfigError(f"no flag {left[0]!r}{nearest(left[0], flags)}")
    if settings.structured and not config.use_vllm:
        raise ConfigError(
            "structured is true and use_vllm is false: only vLLM can hold an answer to a schema;"
            " add --use_vllm true, or leave structured out"
        )
    if settings.length_groups > config.per_device_train_batch_size:
        raise ConfigError(
            f"length_groups asks for {settings.length_groups} passes over the"
            f" {config.per_device_train_batch_size} rows of an update (per_device_train_batch_size);"
            f" it is at most {config.per_device_train_batch_size}"
        )
    _weigh(settings, config, {*values, *(word.lstrip("-").partition("=")[0] for word in rest)})
    return settings, config


def _weigh(settings: GrpoSettings, config: GRPOConfig, told: set[str]) -> None:
    """Choose how vLLM's probabilities are corrected by how long episodes can get."""
    from env_server import registry
    from training.importance import chosen

    if not config.use_vllm:
        return
    home = registry.get(settings.family)
    turns = max((home.tasks[t].max_steps for t in settings.tasks if t in home.tasks), default=8)
    mode = chosen(told, settings.answer_tokens, turns)
    if mode is not None:
        config.vllm_importance_sampling_mode = mode


def _refuse(message: str) -> None:
    raise ConfigError(message)


def _config_file(argv: list[str]) -> tuple[list[str], dict[str, Any], str]:
    if "--config" not in argv:
        return argv, {}, ""
    at = argv.index("--config")
    if at + 1 == len(argv):
        raise ConfigError("--config needs the path of a YAML file")
    return argv[:at] + argv[at + 2 :], read(argv[at + 1]), argv[at + 1]


def resolved(settings: GrpoSettings, config: GRPOConfig) -> JsonObject:
    """Every setting of ours, and those of TRL's that are not its defaults."""
    own = {k: v for k, v in asdict(settings).items() if k not in ELSEWHERE}
    plain = type(config)(**_untold(config))
    theirs = {
        f.name: getattr(config, f.name)
        for f in fields(config)
        if f.name not in ("output_dir", "run_name", "reward_weights")
        and getattr(config, f.name) != getattr(plain, f.name)
    }
    plainly: JsonObject = json.loads(json.dumps({**own, **theirs}, default=str))
    return plainly


def _untold(config: GRPOConfig) -> dict[str, Any]:
    """What a bare config needs to be valid where this one is."""
    return {"use_cpu": config.use_cpu, "bf16": config.bf16, "report_to": "none"}


def usage() -> str:
    """Our own knobs; TRL's are too many to print by default."""
    lines = [
        "usage: python -m training.grpo [--config FILE] [--KNOB VALUE ...]",
        "",
        "Train a warm-started policy with GRPO; the same command resumes a run that was stopped.",
        "Any field of trl.GRPOConfig is a flag too, e.g. --learning_rate 1e-3 --max_steps 80.",
        "",
    ]
    for knob in fields(GrpoSettings):
        default = knob.default_factory() if callable(knob.default_factory) else knob.default
        lines.append(f"  --{knob.name:<20} {knob.metadata['help']} [{default}]")
    return "\n".join(lines)
