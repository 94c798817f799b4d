"""Networks that choose among a fixed list of actions, and how they lie on disk.

`mlp` takes any feature vector; `places` scores pairs and changes from what stands at each place, with one
set of weights for all places. Knows an encoding's sizes and layout; nothing of how a network is trained.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from env_server.contract import Encoding, Family, JsonObject, RoundsError

Kind = Literal["mlp", "places"]
PAIR_WIDTH = 32  # numbers kept of a pair


class UnreadablePolicy(RoundsError, ValueError):
    """The file holds no policy, or one for another environment than it is asked to play."""


class NoLayout(RoundsError, ValueError):
    """The network needs an encoding that says where places and pairs stand."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a network is built from. encoding: the name under which the family knows it."""

    family: str
    task: str
    encoding: str
    network: Kind
    hidden: int
    size: int
    n_actions: int


class Mlp(nn.Module):  # type: ignore[misc]  # torch is not followed
    """Three layers on the whole feature vector: the source documents' policy."""

    def __init__(self, size: int, hidden: int, n_actions: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(size, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, n_actions),
        )
        self.summary_size = size

    def forward(self, features_BF: Tensor) -> tuple[Tensor, Tensor]:
        """(logits over all actions, what a value network may look at)."""
        return self.layers(features_BF), features_BF


class Places(nn.Module):  # type: ignore[misc]
    """Scores every pair and every change from its own places: what holds for a drug holds wherever it stands.

    A place is the sum of what is known of its drug (learned, and linear in its facts), of its
    indication, its numbers and the review as a whole. A pair is symmetric in its two places. Places
    hear from the pairs they are in, and all from the whole list.
    """

    def __init__(self, layout: Any, hidden: int) -> None:
        super().__init__()
        self.layout = layout
        self.register_buffer("facts", torch.from_numpy(layout.facts), persistent=False)
        first, second = zip(*layout.pairs, strict=True)
        self.register_buffer("first", torch.tensor(first), persistent=False)
        self.register_buffer("second", torch.tensor(second), persistent=False)
        drugs, n_facts = layout.facts.shape
        self.drug = nn.Embedding(drugs, hidden)
        self.indication = nn.Embedding(layout.indications, hidden)
        nn.init.normal_(self.drug.weight, std=0.1)
        nn.init.normal_(self.indication.weight, std=0.1)
        self.known = nn.Linear(n_facts, hidden, bias=False)
        self.own = nn.Linear(layout.width - 2, hidden)
        self.whole = nn.Linear(layout.head, hidden)
        self.to_sum = nn.Linear(hidden, PAIR_WIDTH)
        self.to_product = nn.Linear(hidden, PAIR_WIDTH)
        self.asked = nn.Linear(2, PAIR_WIDTH)
        self.mixed = nn.Linear(PAIR_WIDTH, PAIR_WIDTH)
        self.hear = nn.Linear(hidden + PAIR_WIDTH, hidden)
        self.list_to_place = nn.Linear(2 * hidden, hidden)
        self.change = nn.Linear(hidden, layout.kinds)
        self.pair = nn.Linear(PAIR_WIDTH, 1)
        self.pair_from_list = nn.Linear(2 * hidden, PAIR_WIDTH)
        self.end = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1))
        self.summary_size = 2 * hidden

    def forward(self, features_BF: Tensor) -> tuple[Tensor, Tensor]:
        """(logits over all actions, what a value network may look at)."""
        layout = self.layout
        rows_end = layout.head + layout.places * layout.width
        rows_BPW = features_BF[:, layout.head : rows_end].view(-1, layout.places, layout.width)
        # the empty places after the longest list of the batch are left out: two thirds of most work
        n = max(2, int((rows_BPW[:, :, 0] > 0).sum(1).max()))
        rows_BPW = rows_BPW[:, :n]
        kept_R = self.second < n
        first_R, second_R = self.first[kept_R], self.second[kept_R]
        asked_BR2 = features_BF[:, rows_end:].view(-1, len(layout.pairs), 2)[:, kept_R]
        names_BP2 = rows_BPW[:, :, :2].long()
        here_BP1 = (names_BP2[:, :, :1] > 0).float()
        table_DH = self.drug.weight + self.known(self.facts)
        review_BH = self.whole(features_BF[:, : layout.head])
        place_BPH = torch.relu(
            nn.functional.embedding(names_BP2[:, :, 0], table_DH)
            + self.indication(names_BP2[:, :, 1])
            + self.own(rows_BPW[:, :, 2:])
            + review_BH[:, None]
        )
        summed, product = self.to_sum(place_BPH), self.to_product(place_BPH)
        pair_BRW = torch.relu(
            summed[:, first_R]
            + summed[:, second_R]
            + self.mixed(product[:, first_R] * product[:, second_R])
            + self.asked(asked_BR2)
        )
        pair_BRW = pair_BRW * (here_BP1[:, first_R] * here_BP1[:, second_R])
        heard_BPW = torch.zeros_like(summed)
        heard_BPW = heard_BPW.index_add(1, first_R, pair_BRW).index_add(1, second_R, pair_BRW)
        place_BPH = torch.relu(self.hear(torch.cat((place_BPH, heard_BPW), 2))) * here_BP1
        list_BH = place_BPH.sum(1) / layout.places**0.5
        summary_B2H = torch.cat((list_BH, torch.relu(review_BH)), 1)
        last_BPH = torch.relu(place_BPH + self.list_to_place(summary_B2H)[:, None])
        asking_BRW = torch.relu(pair_BRW + self.pair_from_list(summary_B2H)[:, None])
        asking_BA = features_BF.new_zeros(len(features_BF), len(layout.pairs))
        asking_BA[:, kept_R] = self.pair(asking_BRW)[:, :, 0]
        changes_BA = self.change(last_BPH).flatten(1)
        left_out = (layout.places - n) * layout.kinds
        changes_BA = nn.functional.pad(changes_BA, (0, left_out))
        return torch.cat((asking_BA, changes_BA, self.end(summary_B2H)), 1), summary_B2H


def build(shape: Shape, encoding: Encoding) -> Mlp | Places:
    """A network with fresh weights from torch's own generator. Raises NoLayout."""
    if shape.network == "mlp":
        return Mlp(shape.size, shape.hidden, shape.n_actions)
    layout = getattr(encoding, "layout", None)
    if layout is None:
        raise NoLayout(
            f"network places needs an encoding with a layout, which {shape.encoding!r} of"
            f" {shape.family} has not; polypharmacy has `drugs`. Or take network mlp"
        )
    return Places(layout, shape.hidden)


def masked(logits_BA: Tensor, mask_BA: Tensor) -> Tensor:
    """The logits with what is not possible now at -inf."""
    return logits_BA.masked_fill(~mask_BA, float("-inf"))


def write(path: Path, policy: nn.Module, shape: Shape, told: Mapping[str, Any]) -> None:
    """Keep the weights in `path`, whole or not at all. told: JSON-ready, read back by `read`."""
    about = json.dumps({"shape": asdict(shape), **told}, sort_keys=True)
    half = path.with_suffix(".part")
    save_file(dict(policy.state_dict()), half, metadata={"rounds": about})
    half.replace(path)


def about(path: Path) -> JsonObject:
    """What is told of the policy in `path`, with its `shape`. Raises UnreadablePolicy."""
    try:
        with safe_open(path, "pt") as file:
            told: JsonObject = json.loads((file.metadata() or {})["rounds"])
        told["shape"] = asdict(Shape(**told["shape"]))
    except (OSError, SafetensorError, KeyError, TypeError, json.JSONDecodeError) as wrong:
        raise UnreadablePolicy(
            f"{path} holds no policy of ours ({wrong!r}); train one anew"
        ) from wrong
    return told


def read(path: Path, family: Family) -> tuple[Mlp | Places, Encoding, JsonObject]:
    """(the policy in `path`, the encoding it reads, what is told of it). Raises UnreadablePolicy."""
    told = about(path)
    shape = Shape(**told["shape"])
    if shape.family != family.name:
        raise UnreadablePolicy(f"{path} plays {shape.family}, not {family.name}")
    encoding = family.encoding(shape.task, shape.encoding)
    if (encoding.size, encoding.n_actions) != (shape.size, shape.n_actions):
        raise UnreadablePolicy(
            f"{path} was trained on {shape.size} features and {shape.n_actions} actions; {shape.encoding}"
            f" of {family.name} {family.version} has {encoding.size} and {encoding.n_actions}: train anew"
        )
    policy = build(shape, encoding)
    policy.load_state_dict(load_file(path))
    return policy.eval(), encoding, told
