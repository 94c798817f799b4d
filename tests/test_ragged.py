"""Rows of like length in a pass of their own: every token once, and the same figures as all at once."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from training.ragged import cuts, trimmed  # noqa: E402

ROWS = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 14)), min_size=1, max_size=24)


def batch(lengths: list[tuple[int, int]]) -> tuple[Any, int]:
    """(attention mask of TRL's shape, columns of completions): prompts end, completions begin together."""
    before, after = max(p for p, _ in lengths), max(1, *(c for _, c in lengths))
    rows = [[0] * (before - p) + [1] * (p + c) + [0] * (after - c) for p, c in lengths]
    return torch.tensor(rows), after


@given(ROWS, st.integers(1, 8))
def test_every_token_is_in_exactly_one_cut(lengths: list[tuple[int, int]], groups: int) -> None:
    mask, after = batch(lengths)
    covered = torch.zeros_like(mask)
    made = (
        [(r, c) for r, c in cuts(mask, after, groups) if len(r)] if len(lengths) >= groups else []
    )
    for rows, columns in made:
        for row in rows:
            covered[row, columns] += 1
    if made:
        assert bool((covered[mask.bool()] == 1).all())
        assert sorted(int(row) for rows, _ in made for row in rows) == list(range(len(lengths)))


def test_cuts_leave_most_of_the_filling_out() -> None:
    mask, after = batch([(5, 3)] * 15 + [(5, 200)])
    computed = sum(len(rows) * (c.stop - c.start) for rows, c in cuts(mask, after, 4))
    assert computed < mask.numel() / 3


class Scores:
    """What TRL's trainer says of a batch, as a function of the tokens a row has and nothing else."""

    passes = 0

    def _get_per_token_logps_and_entropies(
        self, model: Any, ids: Any, mask: Any, keep: int, *_: Any, **named: Any
    ) -> Any:
        self.passes += 1
        told = (ids * mask).cumsum(1)[:, -keep:] * mask[:, -keep:]
        entropy = told * 2.0 if named.get("compute_entropy") else None
        return model * told, entropy, None


def asked(trainer: Any, lengths: list[tuple[int, int]], **named: Any) -> Any:
    mask, after = batch(lengths)
    ids = torch.arange(1, mask.numel() + 1).view_as(mask).float()
    weight = torch.tensor(0.5, requires_grad=True)
    told = trainer._get_per_token_logps_and_entropies(weight, ids, mask, after, **named)
    told[0].sum().backward()
    return (*told[:2], weight.grad)


@given(ROWS, st.integers(2, 5), st.booleans())
def test_the_figures_are_those_of_one_pass(
    lengths: list[tuple[int, int]], groups: int, entropy: bool
) -> None:
    once = asked(Scores(), lengths, compute_entropy=entropy)
    cut = asked(trimmed(Scores, groups)(), lengths, compute_entropy=entropy)
    assert torch.equal(once[0], cut[0])
    assert (once[1] is None and cut[1] is None) or torch.equal(once[1], cut[1])
    assert torch.allclose(once[2], cut[2])


def test_one_group_is_trls_own_class() -> None:
    assert trimmed(Scores, 1) is Scores


@pytest.mark.parametrize("named", [{"pixel_values": 1}, {"compute_aux_loss": True}])
def test_pictures_and_experts_stay_in_one_pass(named: dict[str, Any]) -> None:
    trainer = trimmed(Scores, 3)()
    asked(trainer, [(2, 3)] * 6, **named)
    assert trainer.passes == 1


def test_the_number_of_passes_depends_on_no_length() -> None:
    for lengths in ([(1, 0)] * 8, [(1, n) for n in range(8)]):
        trainer = trimmed(Scores, 4)()
        asked(trainer, lengths, pixel_values=None, compute_aux_loss=False)
        assert trainer.passes == 4
