"""TRL's own vLLM code, with a recorded engine behind it: ranks of unequal length, and answers held to a schema.

vLLM needs a GPU. Here everything up to its boundary is real: the batches, the gathering, the slicing and the
sampling parameters are TRL's; only the engine's words were written beforehand.
"""

from __future__ import annotations

import json
import threading
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest

pytest.importorskip("trl", reason="the train extra is not installed")
torch = pytest.importorskip("torch", reason="the train extra is not installed")

from trl.generation import vllm_generation  # noqa: E402

from configs.loader import ConfigError  # noqa: E402
from env_server import registry  # noqa: E402
from prompts.parse import spell  # noqa: E402
from training.grpo_settings import GrpoSettings, parse  # noqa: E402
from training.structured import answer_schema  # noqa: E402
from training.vllm_answers import VllmGenerate  # noqa: E402

# slow as a whole: transformers alone takes ten seconds to import
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.slow]
END, CAP = 9, 8
SCHEMA = answer_schema([registry.get("polypharmacy")])


class Ranks:
    """Threads that stand for processes: what one shares, all get, in the order of ranks."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.own = threading.local()
        self._meet = threading.Barrier(count, timeout=20)
        self._board: dict[int, Any] = {}

    @property
    def rank(self) -> int:
        return int(self.own.rank)

    def share(self, value: Any) -> list[Any]:
        self._board[self.rank] = value
        self._meet.wait()
        everything = [self._board[r] for r in range(self.count)]
        self._meet.wait()
        return everything


class Recorded:
    """A vLLM engine: answers each prompt with its last token and one more, and writes down what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def generate(self, prompts: list[list[int]], **parameters: Any) -> dict[str, Any]:
        """As `trl.generation.vllm_client.VLLMClient.generate` answers."""
        self.asked.append({"prompts": len(prompts), **parameters})
        answers = [[p[-1] + 1, END] for p in prompts]
        logprobs = [[[-0.5], [None]] for _ in prompts]
        tokens = [[[t] for t in answer] for answer in answers]
        return {
            "prompt_ids": prompts,
            "completion_ids": answers,
            "logprobs": logprobs,
            "logprob_token_ids": tokens,
        }


class RecordedLLM:
    """`vllm.LLM` as colocate mode uses it, with the same words."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def generate(self, prompts: list[Any], sampling_params: Any, use_tqdm: bool) -> list[Any]:
        self.asked.append({"prompts": len(prompts), **sampling_params})
        return [self._output(p["prompt_token_ids"]) for p in prompts]

    def _output(self, ids: list[int]) -> Any:
        answer = [ids[-1] + 1, END]
        certain = SimpleNamespace(rank=1, logprob=-0.5)
        unknown = SimpleNamespace(rank=1, logprob=float("nan"))
        said = SimpleNamespace(
            token_ids=answer, logprobs=[{answer[0]: certain}, {answer[1]: unknown}]
        )
        return SimpleNamespace(prompt_token_ids=ids, outputs=[said])


def engine(mode: str, ranks: Ranks, rank: int, behind: Any) -> Any:
    """TRL's VLLMGeneration with everything but the engine itself."""
    made = object.__new__(vllm_generation.VLLMGeneration)
    knobs = {"temperature": 1.0, "top_p": 0.9, "top_k": 0, "repetition_penalty": 1.0}
    made.__dict__.update(
        knobs,
        min_p=None,
        mode=mode,
        model=torch.nn.Linear(1, 1),
        max_completion_length=256,
        logprobs=0,
        structured_outputs_regex=None,
        generation_kwargs={"seed": 7},
        enable_sleep_mode=False,
        tensor_parallel_size=ranks.count,
        tp_group=None,
        accelerator=SimpleNamespace(process_index=rank, is_main_process=rank == 0),
        vllm_client=behind,
        llm=behind,
    )
    return made


@pytest.fixture
def collectives(monkeypatch: pytest.MonkeyPatch) -> Ranks:
    """TRL's collectives, between three threads."""
    ranks = Ranks(3)

    def broadcast(objects: list[Any], from_process: int) -> None:
        objects[0] = ranks.share(objects[0])[from_process]

    def all_gather(into: list[Any], value: Any, group: Any) -> None:
        into[:] = ranks.share(value)

    monkeypatch.setattr(
        vllm_generation, "gather_object", lambda own: [x for xs in ranks.share(own) for x in xs]
    )
    monkeypatch.setattr(vllm_generation, "broadcast_object_list", broadcast)
    monkeypatch.setattr(torch.distributed, "all_gather_object", all_gather)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda group: ranks.rank)
    monkeypatch.setattr(vllm_generation, "SamplingParams", dict, raising=False)
    monkeypatch.setattr(vllm_generation, "StructuredOutputsParams", dict, raising=False)
    return ranks


PLANS = [[4, 2, 1], [3], [4, 4, 1, 4, 2]]  # live episodes a turn, of each rank
ASKED = [12, 12, 3, 12, 6]  # three times the most that any rank has alive


def play(mode: str, ranks: Ranks, behind: list[Any], schema: Any) -> dict[int, list[list[int]]]:
    """Every rank plays its plan to the end; the first token of each answer it heard."""
    heard: dict[int, list[list[int]]] = {}

    def run(rank: int) -> None:
        ranks.own.rank = rank
        trainer = SimpleNamespace(
            accelerator=SimpleNamespace(
                num_processes=ranks.count,
                gather=lambda own: torch.cat(ranks.share(own)),
                device="cpu",
            ),
            vllm_generation=engine(mode, ranks, rank, behind[rank]),
            processing_class=SimpleNamespace(eos_token_id=END),
            eos_token_ids=[END],
        )
        generate = VllmGenerate(trainer, CAP, schema)
        said = [generate([[100 * rank + i] for i in range(live)]) for live in PLANS[rank]]
        generate.finish()
        heard[rank] = [[c.ids[0] for c in turn] for turn in said]
        assert trainer.vllm_generation.max_completion_length == 256
        assert trainer.vllm_generation.generation_kwargs == {"seed": 7}

    threads = [threading.Thread(target=run, args=(r,), daemon=True) for r in range(ranks.count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return heard


OWN = {
    rank: [[100 * rank + i + 1 for i in range(live)] for live in plan]
    for rank, plan in enumerate(PLANS)
}


@pytest.mark.parametrize("schema", [None, SCHEMA], ids=["free", "structured"])
def test_in_server_mode_unequal_ranks_get_their_own_answers(
    collectives: Ranks, schema: Any
) -> None:
    one = Recorded()
    assert play("server", collectives, [one, None, None], schema) == OWN
    assert [call["prompts"] for call in one.asked] == ASKED
    told = {"seed": 7} if schema is None else {"seed": 7, "structured_outputs": {"json": SCHEMA}}
    for call in one.asked:
        assert (call["max_tokens"], call["n"], call["generation_kwargs"]) == (CAP, 1, told)


@pytest.mark.parametrize("schema", [None, SCHEMA], ids=["free", "structured"])
def test_under_tensor_parallelism_unequal_ranks_get_their_own_answers(
    collectives: Ranks, schema: Any
) -> None:
    copies = [RecordedLLM() for _ in range(3)]  # every rank generates everything
    assert play("colocate", collectives, copies, schema) == OWN
    for copy in copies:
        assert [call["prompts"] for call in copy.asked] == ASKED
        for call in copy.asked:
            assert (call["max_tokens"], call["n"], call["seed"]) == (CAP, 1, 7)
            wanted = None if schema is None else {"json": SCHEMA}
            assert call.get("structured_outputs") == wanted


def test_ranks_that_ask_unequally_would_get_one_anothers_answers(collectives: Ranks) -> None:
    """Why the counts are agreed upon: TRL slices by each rank's own."""
    one, heard = Recorded(), {}

    def run(rank: int) -> None:
        collectives.own.rank = rank
        made = engine("server", collectives, rank, one)
        prompts = [[100 * rank + i] for i in range(rank + 1)]
        heard[rank] = [a[0] for a in made.generate(prompts, None, 1)[1]]

    threads = [threading.Thread(target=run, args=(r,), daemon=True) for r in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert heard[1] != [101, 102]


@pytest.mark.parametrize("name", registry.names())
def test_every_action_a_family_spells_fits_the_schema_and_nothing_else_does(name: str) -> None:
    family = registry.get(name)
    schema = answer_schema([family])
    fits = jsonschema.Draft202012Validator(schema)
    for task in list(family.tasks)[:3]:
        for action in family.begin(task, 3, "train").legal_actions():
            fits.validate(json.loads(spell(action)))
    for wrong in ({}, {"action_type": "sing"}, {"action_type": "finish", "and": 1}, [], "stop"):
        assert not fits.is_valid(wrong)


def test_a_mixture_may_answer_in_the_forms_of_any_of_its_families() -> None:
    families = [registry.get(name) for name in registry.names()]
    both = len(answer_schema(families)["anyOf"])
    assert both == sum(len(answer_schema([family])["anyOf"]) for family in families)


def test_only_vllm_can_hold_an_answer_and_a_thought_has_no_room_in_it() -> None:
    with pytest.raises(ConfigError, match="--use_vllm true"):
        parse(["--structured", "true"])
    with pytest.raises(ConfigError, match="no room for a thought"):
        GrpoSettings(structured=True, thinking=True)
    settings, _ = parse(["--structured", "true", "--use_vllm", "true"])
    assert settings.structured
