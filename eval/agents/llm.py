"""`llm:MODEL@URL`: a language model behind an OpenAI-compatible server; `llm` alone reads the environment."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

from env_server import registry
from env_server.contract import did_you_mean
from eval.answer_cache import AnswerCache
from eval.consult import ServedPlayer
from eval.endpoint import Asking, BadEndpoint, NoModel, read
from eval.llm import ServedModel
from eval.roster import NotReady, Options

USAGE = "llm:MODEL@URL"
DEFAULT = "?"  # MODEL_NAME at API_BASE_URL
IN_TABLE = 40  # without MODEL_NAME an empty row: nothing is asked, and nothing charged, by default


def player(argument: str, name: str, options: Options) -> ServedPlayer:
    """The served model. Raises NotReady where no model or key is named, BadEndpoint on a wrong knob."""
    if find_spec("openai") is None:
        raise NotReady("a served model needs the openai client: pip install -e '.[agents]'")
    try:
        endpoint, asking = read(argument)
    except NoModel as missing:
        raise NotReady(str(missing)) from None
    if endpoint.needs_key and endpoint.key is None:
        raise NotReady(f"{endpoint.host} wants a key: set OPENAI_API_KEY or HF_TOKEN")
    _refuse_unknown(asking)
    if options.max_new_tokens is not None:
        asking = replace(asking, answer_tokens=options.max_new_tokens)
    model = ServedModel(endpoint, asking, AnswerCache() if asking.cache else None)
    return ServedPlayer(name, model, options.temperature, options.top_p, options.batch)


def _refuse_unknown(asking: Asking) -> None:
    """A task's name misspelt would be an empty row after a long run."""
    if not asking.tasks:
        return
    known = tuple(task for name in registry.names() for task in registry.get(name).tasks)
    for task in asking.named_tasks():
        if task not in known:
            raise BadEndpoint(did_you_mean("task", task, known))
