"""A language model as a player: a folder, how it is spoken to, and many conversations at once.

Knows where weights lie and what `rounds.json` beside them says; conversations are `dialogue`'s
business, and how tokens are sampled is `generate`'s.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from env_server.contract import Family, Split, Task
from eval.heldout import Patients, UnreadableSeeds, trained_on
from eval.roster import NotReady, Options
from eval.trajectory import Trajectory

if TYPE_CHECKING:
    from eval.generate import Generate

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
INSIDE = ("model", "best", "adapter", "merged")  # where a run's folder keeps what it made
SMALL = 50_000_000  # parameters; below, a second CPU thread costs more than it helps


@dataclass(frozen=True, slots=True)
class Speech:
    """How a model was taught to be spoken to; `rounds.json` beside it may say.

    style: `brief` for models built here, `full` for chat models. answer_tokens, context_tokens:
    caps of one answer and of a whole conversation. template_options: for the chat template.
    """

    style: str = "full"
    answer_tokens: int = 64
    context_tokens: int = 4096
    template_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class LanguagePlayer:
    """A model in `folder`, or an adapter there on the model in `base`. Loaded when first needed."""

    name: str
    folder: Path
    options: Options
    base: Path | str | None = None  # a folder or a Hub id; None where `folder` is a whole model
    role: str = "model"
    _loaded: tuple[Any, Any] | None = None

    @property
    def trained_on(self) -> Sequence[Patients]:
        under = trained_on(self.base) if isinstance(self.base, Path) else ()
        return (*trained_on(self.folder), *under)

    def identity(self) -> str:
        """A fingerprint of the weights, so that two halves of a run are one model's."""
        parts = [fingerprint(self.folder)]
        if self.base is not None:
            parts.append(fingerprint(self.base) if isinstance(self.base, Path) else str(self.base))
        return "+".join(parts)

    def plays(self, task: Task) -> bool:
        return True

    def play(
        self, family: Family, task: str, split: Split, seeds: Sequence[int]
    ) -> Iterator[Trajectory]:
        if not seeds:
            return
        from eval.dialogue import Limits, converse
        from eval.door import LocalDoor, Request

        model, tokenizer = self._load()
        speech = self._speech(model)
        generate = self._generate(model, tokenizer, speech)
        limits = Limits(speech.answer_tokens, speech.context_tokens)
        for start in range(0, len(seeds), self.options.batch):
            asked = [Request(task, seed, split) for seed in seeds[start:][: self.options.batch]]
            yield from converse(
                LocalDoor(family),
                asked,
                generate,
                tokenizer,
                limits=limits,
                style=speech.style,  # type: ignore[arg-type]  # checked by read_speech
                agent=self.name,
                template_options=dict(speech.template_options),
            )

    def _generate(self, model: Any, tokenizer: Any, speech: Speech) -> Generate:
        from eval.generate import GREEDY, TransformersGenerate
        from eval.kept_cache import KeptCache

        warmth = self.options.temperature
        # brief prompts are for models built here, whose cache is a plain one
        if speech.style == "brief" and (warmth == GREEDY or self.options.top_p == 1.0):
            return KeptCache(model, tokenizer, warmth, speech.answer_tokens)
        return TransformersGenerate(
            model,
            tokenizer,
            temperature=self.options.temperature,
            top_p=self.options.top_p,
            max_new_tokens=speech.answer_tokens,
        )

    def _speech(self, model: Any) -> Speech:
        """What is beside the adapter, else beside its base; never more context than the model has."""
        places = [self.folder, *([self.base] if isinstance(self.base, Path) else [])]
        speech = next((s for s in map(read_speech, places) if s is not None), Speech())
        own = getattr(model.config, "max_position_embeddings", speech.context_tokens)
        answer = self.options.max_new_tokens or speech.answer_tokens
        return replace(speech, answer_tokens=answer, context_tokens=min(own, speech.context_tokens))

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            self._loaded = load(self.folder, self.base)
        return self._loaded


def load(folder: Path, base: Path | str | None) -> tuple[Any, Any]:
    """(model, tokenizer), on a GPU where there is one. Nothing is downloaded."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # the table has its own
    model = AutoModelForCausalLM.from_pretrained(
        str(base or folder), dtype="auto", local_files_only=True
    )
    words = folder if (folder / "tokenizer_config.json").is_file() or base is None else base
    tokenizer = AutoTokenizer.from_pretrained(str(words), local_files_only=True)
    if base is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    if torch.cuda.is_available():
        model = model.to("cuda")
    elif model.num_parameters() < SMALL:
        torch.set_num_threads(1)
    return model.eval(), tokenizer


def read_speech(folder: Path) -> Speech | None:
    """What `rounds.json` in a model's folder says of how to speak to it; None without one."""
    path = folder / "rounds.json"
    if not path.is_file():
        return None
    body = json.loads(path.read_text("utf-8"))
    told = {key: body[key] for key in Speech.__slots__ if body.get(key) is not None}
    speech = Speech(**told)
    if speech.style not in ("full", "brief"):
        raise UnreadableSeeds(f"{path}: style is {speech.style!r}; it is full or brief")
    return speech


def model_folder(given: str, marker: str, how: str) -> Path:
    """The folder with `marker` and weights in it: `given`, or where a run's folder keeps them.

    Raises NotReady, which says how to make what is missing.
    """
    if find_spec("torch") is None or find_spec("transformers") is None:
        raise NotReady("playing a model needs torch and transformers: pip install -e '.[train]'")
    places = [Path(given), *(Path(given) / inside for inside in INSIDE)]
    marked = [place for place in places if (place / marker).is_file()]
    # a run keeps its settings as config.json too: only weights beside it make it a model's
    whole = [place for place in marked if any(any(place.glob(w)) for w in WEIGHTS)]
    if whole:
        return whole[0]
    if marked:
        raise NotReady(f"{marked[0]} has a {marker} but no weights; {how}")
    state = f"no {marker} in {given}" if Path(given).is_dir() else f"there is no folder {given}"
    raise NotReady(f"{state}; {how}")


def fingerprint(folder: Path, head: int = 1 << 20) -> str:
    """A short name for the weights in a folder: sizes, and the first and last MiB of each file."""
    seen = blake2b(digest_size=8)
    for path in sorted(p for pattern in WEIGHTS for p in folder.glob(pattern)):
        size = path.stat().st_size
        with path.open("rb") as file:
            seen.update(f"{path.name} {size}".encode() + file.read(head))
            file.seek(max(0, size - head))
            seen.update(file.read(head))
    return seen.hexdigest()
