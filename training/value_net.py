"""What a policy can expect from here on: the baseline that REINFORCE subtracts.

Reads the policy's summary of a position and never moves it. Knows nothing of actions.
"""

from __future__ import annotations

from torch import Tensor, nn


class Value(nn.Module):
    """Three layers to one number: the source documents' baseline (128, then 64)."""

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(size, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden // 2),
            nn.ReLU(),
            nn.Linear(hidden // 2, 1),
        )

    def forward(self, summary_BS: Tensor) -> Tensor:
        """Expected discounted reward to go, (B,)."""
        return self.layers(summary_BS.detach())[:, 0]
