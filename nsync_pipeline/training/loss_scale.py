"""Dynamic loss scaling: keeps small gradients above zero where the denoiser computes in float16."""

from dataclasses import dataclass

GROWTH = 2.0
BACKOFF = 0.5
GROWTH_INTERVAL = 2000
"""Steps without an overflow after which the scale grows."""

FLOOR = 1.0
"""What still overflows at this scale is not due to the scale."""


@dataclass(frozen=True)
class LossScale:
    """What losses are multiplied by on the way back, by the rules of ``torch.amp.GradScaler``.

    One scale for all branches: each branch's gradient is that of the same loss, and an overflow in
    one of them makes the step of all of them void.
    """

    value: float = 2.0**16
    steps: int = 0  # without an overflow, since the scale changed

    def after_step(self) -> "LossScale":
        """The scale after a step whose gradients were all finite."""
        if self.steps + 1 == GROWTH_INTERVAL:
            return LossScale(self.value * GROWTH)
        return LossScale(self.value, self.steps + 1)

    def after_overflow(self) -> "LossScale | None":
        """The scale to try the same step at; None where it is at its floor."""
        if self.value <= FLOOR:
            return None
        return LossScale(max(FLOOR, self.value * BACKOFF))
