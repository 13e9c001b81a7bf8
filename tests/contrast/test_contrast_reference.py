"""The refiner against the plain formulas of ``rules``, in float64, and what they are for."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from nsync_pipeline.contrast import rules
from nsync_pipeline.contrast.config import (
    SETTINGS,
    Branch,
    Conflict,
    ContrastConfig,
    Scope,
    UpdateRule,
    branches_of,
    conflict_of,
)
from nsync_pipeline.contrast.gram import scope_of
from nsync_pipeline.contrast.refiner import Refiner

NAMES = (
    "unet.down_blocks.0.to_q.lora_A.weight", "unet.mid_block.to_q.lora_A.weight",
    "unet.down_blocks.0.to_q.lora_B.weight", "unet.down_blocks.0.to_k.lora_A.weight",
    "text_encoder.sks",
)  # fmt: skip
"""A block's weights do not all follow each other."""

TWO_NEGATIVES = ContrastConfig(negatives=2)
POSITIVE, *NEGATIVES = BRANCHES = branches_of("orthogonal", TWO_NEGATIVES).ordered


@dataclass
class Plain:
    """A rule step after step, by the formulas alone, on whole vectors (d,)."""

    rule: UpdateRule
    contrast: ContrastConfig
    scopes: Sequence[Tensor]
    estimate: list[Tensor] = field(default_factory=list)
    steps: int = 0  # that had a negative

    def __call__(
        self, positive: Tensor, negatives: list[Tensor], anchor: Tensor, metric: Tensor | None
    ) -> Tensor:
        directions = self._directions(positive, negatives)
        vectors = [positive, anchor, *([] if metric is None else [metric]), *directions]
        return rules.in_scopes(lambda of_scope: self._rule(of_scope, metric), vectors, self.scopes)

    def _rule(self, vectors: Sequence[Tensor], whole_metric: Tensor | None) -> Tensor:
        positive, anchor, *rest = vectors
        metric, directions = (None, rest) if whole_metric is None else (rest[0], rest[1:])
        contrast = self.contrast
        conflict = conflict_of(self.rule, contrast)
        options: tuple[Any, ...] = (contrast.strength, conflict, metric)
        match self.rule:
            case "none":
                return rules.none(positive)
            case "orthogonal":
                return rules.orthogonal(positive, directions, *options)
            case "orthogonal_anchor":
                return rules.orthogonal_anchor(positive, directions, anchor, *options)
            case "mean":
                return rules.mean(positive, directions, anchor if contrast.anchor else None)
            case "released":
                if contrast.released_form == "projection":
                    return rules.released(positive, directions, contrast.anchor)
                return rules.released_mean(
                    positive, directions, anchor if contrast.anchor else None
                )
            case "safeguarded":
                return rules.safeguarded(
                    positive, directions, contrast.margin or 0.0, conflict, metric
                )
            case "preference":
                return rules.preference(positive, directions, contrast.margin, conflict)
            case "contrastive_target":
                return rules.contrastive_target(positive)
            case "differential":
                return rules.differential(positive)
            case "class_preservation":
                (preserved,) = directions
                return rules.class_preservation(positive, preserved, contrast.negative_weight)
            case "prior_preservation" | "slider" | "negative_aware":
                rule = getattr(rules, self.rule)
                added: Tensor = rule(positive, directions, contrast.negative_weight)
                return added

    def _directions(self, positive: Tensor, negatives: list[Tensor]) -> list[Tensor]:
        """What takes the place of the negatives; an estimate takes in those that are there."""
        if self.contrast.negative_estimate == "step":
            return negatives
        there = [n for n in negatives if n.norm() > rules.ABSENT * positive.norm()]
        if there and self.contrast.negative_estimate == "running_mean":
            self.steps += 1
            (before,) = self.estimate or [torch.zeros_like(positive)]
            decay = self.contrast.running_decay
            self.estimate = [rules.running_mean(before, there, self.steps, decay)]
        elif there:
            size = self.contrast.basis_size
            self.estimate = rules.running_basis(self.estimate, there, size)
        return self.estimate or [torch.zeros_like(positive)]


def places_of(names: Sequence[str], shapes: Sequence[torch.Size], scope: Scope) -> list[Tensor]:
    """Of each scope's numbers among those of all weights in their own order."""
    numbers = torch.arange(sum(shape.numel() for shape in shapes))
    parts = numbers.split([shape.numel() for shape in shapes])
    members: dict[str, list[Tensor]] = {}
    for name, part in zip(names, parts, strict=True):
        members.setdefault(scope_of(name, scope), []).append(part)
    return [torch.cat(of_scope) for of_scope in members.values()]


@st.composite
def options(draw: st.DrawFn, rule: UpdateRule) -> ContrastConfig:
    """Any that have an effect with the rule."""
    estimate = draw(st.sampled_from(["step", "running_mean", "running_basis"]))
    negatives = draw(st.integers(1, 3))
    drawn: dict[str, Any] = {
        "scope": draw(st.sampled_from(get_args(Scope))),
        "strength": draw(st.sampled_from([1.0, 0.3, 1.5, 100.0])),
        "conflict": draw(st.sampled_from([None, *get_args(Conflict)])),
        "margin": draw(st.sampled_from([None, 0.0, 0.4, 1.0])),
        "negative_weight": draw(st.sampled_from([1.0, 0.25])),
        "negatives": negatives,
        "anchor": draw(st.booleans()),
        "released_form": draw(st.sampled_from(["projection", "mean"])),
        "negative_estimate": estimate,
    }
    if rule == "released" and drawn["released_form"] == "mean":
        del drawn["scope"]
    if estimate == "running_mean":
        drawn["running_decay"] = draw(st.sampled_from([0.5, 0.9]))
    if estimate == "running_basis":
        drawn["basis_size"] = draw(st.integers(negatives, 4))
    if drawn["conflict"] is None:
        drawn |= {"strength": min(1.0, drawn["strength"]), "positive_part": draw(st.booleans())}
    if rule == "preference" and drawn["margin"] is None:
        drawn["conflict"] = None
    allowed = SETTINGS[rule]
    return ContrastConfig(**{name: value for name, value in drawn.items() if name in allowed})


shape_lists = st.lists(
    st.lists(st.integers(1, 3), max_size=3).map(torch.Size), min_size=1, max_size=len(NAMES)
)


@pytest.mark.parametrize("rule", get_args(UpdateRule))
@given(st.data(), shape_lists, st.integers(0, 2**31))
def test_a_rule_is_its_formula(
    rule: UpdateRule, data: st.DataObject, shapes: list[torch.Size], seed: int
) -> None:
    """Small whole numbers: vectors are zero, equal, opposite and dependent often enough."""
    contrast = data.draw(options(rule))
    weighted = "metric" in SETTINGS[rule] and data.draw(st.booleans())
    names, sizes = NAMES[: len(shapes)], [shape.numel() for shape in shapes]
    refiner = Refiner(dict(zip(names, shapes, strict=True)), rule, contrast)
    plain = Plain(rule, contrast, places_of(names, shapes, contrast.scope))
    generator = torch.Generator().manual_seed(seed)
    needed = branches_of(rule, contrast)

    def drawn() -> Tensor:
        return torch.randint(-2, 3, (sum(sizes),), generator=generator).double()

    def parts(vector: Tensor) -> list[Tensor]:
        return [p.view(s) for p, s in zip(vector.split(sizes), shapes, strict=True)]

    for _ in range(3):
        positive, anchor, *negatives = [drawn() for _ in range(2 + needed.negatives)]
        metric = drawn().abs() + 0.5 if weighted else None
        found = refiner(
            parts(positive),
            *map(parts, negatives),
            anchor=parts(anchor) if needed.anchor else None,
            metric=None if metric is None else parts(metric),
        )
        expected = plain(positive, negatives, anchor, metric)
        whole = torch.cat([part.flatten() for part in found.gradient])
        assert float((whole - expected).norm()) <= 1e-9 * float(1 + positive.norm())


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

    def loss(self, branch: Branch) -> Tensor:
        """Of that branch's own samples."""
        generator = torch.Generator().manual_seed(BRANCHES.index(branch))
        x, target = torch.randn(2, 5, 6, generator=generator, dtype=torch.float64)
        for block in (0, 1):
            down = self.factors[f"layers/{block}/lora_A/weight"]
            up = self.factors[f"layers/{block}/lora_B/weight"]
            x = torch.tanh(x + x @ down.T @ up.T)
        return ((x - target) ** 2).mean()

    def gradient(self, branch: Branch) -> tuple[Tensor, ...]:
        return torch.autograd.grad(self.loss(branch), self.named()[1])


def test_a_small_step_leaves_the_loss_on_negatives_as_it_is() -> None:
    """To first order: a small step changes it by 1,000 times less than one along ``g+``."""
    network = SmallNetwork()
    names, weights = network.named()
    refiner = Refiner(dict(zip(names, weights, strict=True)), contrast=TWO_NEGATIVES)
    gradients = {branch: network.gradient(branch) for branch in refiner.branches}

    def change_by_a_step(along: Sequence[Tensor], branch: Branch) -> float:
        before = network.loss(branch).item()
        with torch.no_grad():
            torch._foreach_add_(list[Tensor](weights), list(along), alpha=-1e-5)
            after = network.loss(branch).item()
            torch._foreach_add_(list[Tensor](weights), list(along), alpha=1e-5)
        return after - before

    refined = refiner.of_branches(gradients).gradient
    for branch in NEGATIVES:
        plain = change_by_a_step(gradients[POSITIVE], branch)
        assert abs(change_by_a_step(refined, branch)) < 1e-3 * abs(plain)
    assert change_by_a_step(refined, POSITIVE) < 0
