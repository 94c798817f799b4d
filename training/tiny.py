"""A language model small enough to learn on a laptop's CPU, made from nothing but an environment.

Knows the shape of the network and where its words come from; not how it is taught.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from env_server import registry
from env_server.contract import Family, JsonObject, RoundsError, nearest
from prompts.render import Style
from training import threads, tokenizer
from training.dataset import Example, Mixture, collect

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

threads.settle()


class UnknownSize(RoundsError, KeyError):
    """No model size of that name."""

    __str__ = Exception.__str__


@dataclass(frozen=True, slots=True)
class Size:
    """The shape of a model built here. `merged` is how many BPE tokens come on top of the names."""

    hidden: int
    layers: int
    heads: int
    ffn: int
    head_dim: int = 32  # vLLM loads nothing smaller
    context: int = 2048  # tokens of one episode, prompt included
    merged: int = 400
    initializer_range: float = 0.05  # at the usual .02 a model this small hardly trains
    # of the tied embeddings: to name a drug is to copy its embedding, and long ones stand out at once
    embedding_range: float | None = None

    @property
    def parameters(self) -> int:
        """Weights of the layers alone, without the vocabulary."""
        attention = 4 * self.hidden * self.heads * self.head_dim
        return self.layers * (attention + 3 * self.hidden * self.ffn)


SIZES: dict[str, Size] = {
    "tiny": Size(hidden=128, layers=2, heads=4, ffn=256, embedding_range=0.15),
    # for benchmarks on a GPU, where there is something to measure only from tens of millions up
    "30m": Size(512, 10, 8, 1408, head_dim=64, context=4096, initializer_range=0.03),
    "100m": Size(768, 14, 12, 2048, head_dim=64, context=4096, initializer_range=0.02),
    "300m": Size(1024, 24, 16, 2816, head_dim=64, context=4096, initializer_range=0.02),
}
_READ = 400  # train episodes a task whose words make the vocabulary


def size(name: str) -> Size:
    """The preset called `name`. Raises UnknownSize with the nearest one."""
    if name not in SIZES:
        raise UnknownSize(
            f"no model size {name!r}{nearest(name, tuple(SIZES))}; sizes: {', '.join(SIZES)}"
        )
    return SIZES[name]


def build(
    directory: str | Path,
    family: str,
    tasks: Sequence[str],
    seed: int = 0,
    shape: Size | str = "tiny",
    style: Style = "brief",
) -> Path:
    """Write an untrained model and its tokenizer to `directory`; AutoModelForCausalLM loads it.

    The same arguments give the same bytes. Reads train episodes only.
    """
    import torch
    from transformers import Qwen3ForCausalLM

    from training import watch

    chosen = size(shape) if isinstance(shape, str) else shape
    words = vocabulary(registry.get(family), tasks, chosen, style)
    words.model_max_length = chosen.context
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(_configuration(chosen, words))
        if chosen.embedding_range:
            torch.nn.init.normal_(model.get_input_embeddings().weight, std=chosen.embedding_range)
    watch.hush()
    model.generation_config.do_sample = True
    model.generation_config.eos_token_id = words.eos_token_id
    model.generation_config.pad_token_id = words.pad_token_id
    path = Path(directory)
    model.save_pretrained(path)
    words.save_pretrained(path)
    return path


def vocabulary(
    family: Family, tasks: Sequence[str], shape: Size, style: Style = "brief"
) -> PreTrainedTokenizerFast:
    """A tokenizer made of what train episodes of `tasks` say, and of the family's own names."""
    mixture = Mixture(
        family=family.name, tasks=tuple(tasks), episodes=_READ * len(tasks), style=style
    )
    examples = collect(mixture).examples
    answers = [m["content"] for e in examples for m in e.messages if m["role"] == "assistant"]
    texts = [m["content"] for e in examples for m in e.messages if m["role"] != "assistant"]
    spoken = tokenizer.open_names(_possible(family, examples), family.action_schema())
    # optional on a family: every name it can ever show
    declared: Callable[[], tuple[str, ...]] = getattr(family, "vocabulary", tuple)
    return tokenizer.learn(
        texts,
        spoken=spoken,
        seen=declared(),
        skeletons=tokenizer.skeletons(answers, spoken),
        merged=shape.merged,
    )


def _possible(family: Family, examples: Sequence[Example]) -> Iterator[JsonObject]:
    """What was done in these episodes, and everything that could have been done at their start."""
    for example in examples:
        yield from example.actions
        opening = family.begin(example.task, example.seed, "train")
        yield from (action.to_json() for action in opening.legal_actions())


def _configuration(shape: Size, words: PreTrainedTokenizerFast) -> Any:
    from transformers import Qwen3Config

    return Qwen3Config(
        vocab_size=len(words),
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.context,
        initializer_range=shape.initializer_range,
        tie_word_embeddings=True,
        pad_token_id=words.pad_token_id,
        eos_token_id=words.eos_token_id,
        bos_token_id=None,
        use_cache=True,
    )
