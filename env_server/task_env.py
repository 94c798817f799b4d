"""Any task of any family as a Gymnasium environment: features, numbered actions and their mask.

Knows spaces, seeds of patients and the family's encoding; nothing of who learns, or of the names
that `gymnasium.make` takes (`env_server.gym` gives them).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from env_server import registry
from env_server.contract import (
    Action,
    BadSplit,
    Episode,
    Family,
    Refusal,
    RoundsError,
    Split,
    canonical,
    task_of,
)

try:
    import gymnasium
    from gymnasium import spaces
except ImportError as missing:
    raise ImportError(
        f"{missing}: the Gymnasium view needs the extra `agents`; pip install 'rounds[agents]'"
    ) from missing

PATIENTS: Final = 1_000_000  # seeds that a stream of patients draws from, unless told otherwise
OPTIONS: Final = ("split", "patient")  # what `reset(options=...)` understands

Features = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


class BadOption(RoundsError, ValueError):
    """`reset` was given an option that it does not have, or a value that the option does not take."""


class TaskEnv(gymnasium.Env):  # type: ignore[misc]  # gymnasium's types are not followed
    """One task; every `reset` begins the next patient of a stream.

    Observations are float32 features of shape (size,), actions numbers in [0, n_actions). The mask of
    legal ones is `action_masks()` (what MaskablePPO asks) and `info["action_mask"]`. An action the
    mask forbids is a refusal: it is counted, charged and changes nothing else.

    An episode that runs out of steps is terminated, not truncated: the limit is part of the task, is
    seen by the agent and is charged for, so there is no value beyond it to bootstrap from.
    """

    metadata: Mapping[str, Any] = {"render_modes": ["ansi"], "render_fps": 1}

    def __init__(
        self,
        family: str | Family,
        task: str | None = None,
        split: Split = "train",
        encoding: str = "default",
        first_patient: int = 0,
        patients: int = PATIENTS,
        attempts: int = 1,
        render_mode: str | None = None,
    ) -> None:
        """patients: how many seeds, from `first_patient` on, the stream draws from. attempts: episodes
        of each patient, one after the other; drawing a patient can cost more than playing one.

        Raises UnknownFamily, UnknownTask, BadSplit, BadOption, or what the family says of `encoding`.
        """
        self.family = registry.get(family) if isinstance(family, str) else family
        self.task = task_of(self.family, task)
        self.split = self._known(split)
        if patients < 1 or first_patient < 0:
            raise BadOption(
                f"patients {first_patient} to {first_patient + patients - 1}: there is none of them;"
                " first_patient starts at 0 and patients at 1"
            )
        if attempts < 1:
            raise BadOption(f"attempts is {attempts}; every patient is played once at least")
        if render_mode not in (None, "ansi"):
            raise BadOption(f"no render_mode {render_mode!r}; there is 'ansi', and None")
        self.patients = range(first_patient, first_patient + patients)
        self.encoding = self.family.encoding(self.task.name, encoding)
        self.observation_space = spaces.Box(-np.inf, np.inf, (self.encoding.size,), np.float32)
        self.action_space = spaces.Discrete(self.encoding.n_actions)
        self.render_mode = render_mode
        self._attempts = attempts
        self._start: Episode | None = None  # the stream's patient, before anybody played
        self._left = 0  # times this one is still to be played
        self.episode: Episode | None = None
        self._mask: Mask = np.zeros(self.encoding.n_actions, dtype=np.bool_)
        self._refusals = 0
        self._return = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Features, dict[str, Any]]:
        """Begin the next patient. `seed` restarts the stream, so equal seeds give equal patients.

        options: split (another one for this episode alone), patient (this very seed instead of the
        stream's next). Raises BadOption, BadSplit.
        """
        super().reset(seed=seed)
        split, patient = self._chosen(options or {})
        if seed is not None:
            self._left = 0
        if patient is None and split == self.split:
            self.episode = self._next()
        else:
            self.episode = self.family.begin(self.task.name, self._drawn(patient), split)
        self._refusals, self._return = 0, 0.0
        return self._look(), self._info()

    def _next(self) -> Episode:
        """The stream's patient: the one before while there are attempts left, else a new one."""
        if self._start is None or not self._left:
            self._start = self.family.begin(self.task.name, self._drawn(None), self.split)
            self._left = self._attempts
        self._left -= 1
        return self._start.copy() if self._left else self._start

    def _drawn(self, patient: int | None) -> int:
        if patient is not None:
            return patient
        return int(self.np_random.integers(self.patients.start, self.patients.stop))

    def step(self, action: int) -> tuple[Features, float, bool, bool, dict[str, Any]]:
        """Act once: (features, reward, terminated, truncated (never), info)."""
        step = self._running().step(self._meant(int(action)))
        self._refusals += step.refusal is not None
        self._return += step.reward
        return self._look(), float(step.reward), step.done, False, self._info(step.parts)

    def action_masks(self) -> Mask:
        """bool array of shape (n_actions,): exactly the actions that are legal now."""
        self._begun()
        return self._mask.copy()

    def render(self) -> str | None:
        """The observation as JSON text in mode `ansi`."""
        if self.render_mode is None:
            return None
        return canonical(self._begun().observe().to_json()).decode()

    def _meant(self, index: int) -> Action | Refusal:
        if 0 <= index < self.encoding.n_actions and self._mask[index]:
            return self.encoding.action(self._begun().observe(), index)
        return Refusal("illegal", f"discrete action {index} is not legal now; use action_masks()")

    def _look(self) -> Features:
        """The features of what is seen now; its mask is remembered, since many ask for it."""
        seen = self._begun().observe()
        self._mask = self.encoding.mask(seen)
        return np.array(self.encoding.features(seen), dtype=np.float32)  # the caller may keep it

    def _info(self, parts: Mapping[str, float] | None = None) -> dict[str, Any]:
        """patient, action_mask and counts; at the end score and return too."""
        episode = self._begun()
        info: dict[str, Any] = {
            "patient": episode.seed,
            "steps": episode.steps,
            "refusals": self._refusals,
            "action_mask": self.action_masks(),
        }
        if parts is not None:
            info["parts"] = dict(parts)
        if episode.done:
            info |= {"score": episode.score(), "return": self._return}
        return info

    def _begun(self) -> Episode:
        if self.episode is None:
            raise gymnasium.error.ResetNeeded("no patient yet: call reset() first")
        return self.episode

    def _running(self) -> Episode:
        if self._begun().done:
            raise gymnasium.error.ResetNeeded("the episode is over: call reset() for the next one")
        return self._begun()

    def _chosen(self, options: Mapping[str, Any]) -> tuple[Split, int | None]:
        if unknown := sorted(set(options) - set(OPTIONS)):
            raise BadOption(f"reset has no option {unknown[0]!r}; options: {', '.join(OPTIONS)}")
        patient = options.get("patient")
        if patient is not None and (isinstance(patient, bool) or not isinstance(patient, int)):
            raise BadOption(f"patient is {patient!r}; it is the seed of a patient, a whole number")
        return self._known(options.get("split", self.split)), patient

    def _known(self, split: Split) -> Split:
        if split not in self.task.splits:
            known = ", ".join(self.task.splits)
            raise BadSplit(f"{self.task.name} has no split {split!r}; splits: {known}")
        return split
