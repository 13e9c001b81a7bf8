"""Every rule on a small network's own gradients, in float64, against its formula written out."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nsync_pipeline.contrast.config import ContrastConfig
from nsync_pipeline.contrast.refiner import Refiner
from nsync_pipeline.contrast.rules import UpdateRule
from nsync_pipeline.contrast.scopes import scope_of

BRANCHES = ("positive", "negative", "negative_1", "anchor")


class SmallNetwork(nn.Module):
    """Two blocks of a frozen layer with low-rank factors, B away from zero."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.factors = nn.ParameterDict()
        for block in (0, 1):
            for factor, shape in (("A", (2, 6)), ("B", (6, 2))):
                values = torch.randn(shape, generator=generator, dtype=torch.float64)
                self.factors[f"layers/{block}/lora_{factor}/weight"] = nn.Parameter(0.5 * values)

    def named(self) -> tuple[list[str], list[nn.Parameter]]:
        names = sorted(self.factors)
        return [name.replace("/", ".") for name in names], [self.factors[name] for name in names]

    def loss(self, branch: str) -> Tensor:
        """Of that branch's own samples."""
        generator = torch.Generator().manual_seed(BRANCHES.index(branch))
        x, target = torch.randn(2, 5, 6, generator=generator, dtype=torch.float64)
        for block in (0, 1):
            down = self.factors[f"layers/{block}/lora_A/weight"]
            up = self.factors[f"layers/{block}/lora_B/weight"]
            x = torch.tanh(x + x @ down.T @ up.T)
        return ((x - target) ** 2).mean()

    def gradient(self, branch: str) -> tuple[Tensor, ...]:
        return torch.autograd.grad(self.loss(branch), self.named()[1])


def proj(a: Tensor, directions: Sequence[Tensor]) -> Tensor:
    """The projection of ``a`` on the span of ``directions``, by QR."""
    basis, _ = torch.linalg.qr(torch.stack(list(directions), dim=1))
    return basis @ (basis.T @ a)


def written_out(rule: str, g: dict[str, Tensor], anchor: bool) -> Tensor:
    positive, negatives = g["positive"], [g[b] for b in BRANCHES[1:3] if b in g]
    if rule == "orthogonal":
        return positive - proj(positive, negatives)
    if rule == "orthogonal_anchor":
        return positive - proj(positive, negatives) + proj(positive, [g["anchor"]])
    if rule == "mean":
        branches = [positive, *negatives] + ([g["anchor"]] if anchor else [])
        return torch.stack(branches).mean(dim=0)
    accumulated = positive + torch.stack(negatives).sum(dim=0)
    return (2.0 if anchor else 1.0) * positive - proj(positive, [accumulated])


@pytest.mark.parametrize("negatives", [1, 2])
@pytest.mark.parametrize(
    ("rule", "contrast"),
    [
        *[("orthogonal", {"scope": s}) for s in ("global", "block", "module", "tensor")],
        *[("orthogonal_anchor", {"scope": s}) for s in ("global", "block", "module", "tensor")],
        ("mean", {}),
        ("mean", {"anchor": True}),
        *[
            ("released", {"scope": s, "anchor": a})
            for s in ("global", "tensor")
            for a in (False, True)
        ],
    ],
)
def test_a_rule_is_its_formula(rule: UpdateRule, contrast: dict[str, Any], negatives: int) -> None:
    network = SmallNetwork()
    names, weights = network.named()
    settings = ContrastConfig(negatives=negatives, **contrast)
    refiner = Refiner(rule, settings, names, [weight.shape for weight in weights])
    gradients = {branch: network.gradient(branch) for branch in refiner.branches}
    refined = refiner(gradients).gradient
    scopes: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        scopes.setdefault(scope_of(name, settings.scope), []).append(place)
    for places in scopes.values():
        of_scope = {
            branch: torch.cat([gradient[place].flatten() for place in places])
            for branch, gradient in gradients.items()
        }
        expected = written_out(rule, of_scope, settings.anchor)
        found = torch.cat([refined[place].flatten() for place in places])
        assert float((found - expected).norm()) <= 1e-12 * float(expected.norm())


def test_a_small_step_leaves_the_loss_on_negatives_as_it_is() -> None:
    """To first order: a small step changes it by 1,000 times less than one along ``g+``."""
    network = SmallNetwork()
    names, weights = network.named()
    shapes = [weight.shape for weight in weights]
    refiner = Refiner("orthogonal", ContrastConfig(negatives=2), names, shapes)
    gradients = {branch: network.gradient(branch) for branch in refiner.branches}

    def change_by_a_step(along: Sequence[Tensor], branch: str) -> float:
        before = network.loss(branch).item()
        with torch.no_grad():
            torch._foreach_add_(weights, list(along), alpha=-1e-5)
            after = network.loss(branch).item()
            torch._foreach_add_(weights, list(along), alpha=1e-5)
        return after - before

    refined = refiner(gradients).gradient
    for branch in ("negative", "negative_1"):
        plain = change_by_a_step(gradients["positive"], branch)
        assert abs(change_by_a_step(refined, branch)) < 1e-3 * abs(plain)
    assert change_by_a_step(refined, "positive") < 0
