"""One suggestion from any player: what the server's `/agent/suggest` borrows from this room.

Knows how a player of whole episodes is asked for a single decision; nothing of the server.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from env_server.contract import Action, Episode, Family, Refusal
from eval import roster
from eval.consult import ServedPlayer
from eval.watched import decision


def adviser(
    spec: str, family: Family, wait_s: float
) -> Callable[[Episode], Action | Refusal | None]:
    """Asks the player that `spec` names. Raises NotReady or UnknownAgent, with the way out.

    A served model is given no longer than `wait_s`, and may be asked by several at once; a player
    that runs here takes one question at a time.
    """
    player = roster.find(spec, family)
    if isinstance(player, ServedPlayer):
        asking = player.model.asking
        player.model.asking = replace(asking, patience_s=min(wait_s, asking.patience_s))
        return lambda episode: decision(player, family, episode)
    turn = threading.Lock()

    def asked(episode: Episode) -> Action | Refusal | None:
        with turn:
            return decision(player, family, episode)

    return asked
