"""Per-branch copies of LoRA weights, and the LoRA layers that multiply by them.

While the copies are in use, a batch of the model is ``n`` branches stacked: the first ``B`` samples
belong to branch 0, the next to branch 1, and so on. A LoRA layer with factors ``A, B`` computes,
for the samples of branch ``i``, ``base(x) + scaling * B_i A_i x`` with branch ``i``'s own copies: a
batched matrix product for linear layers, a convolution grouped by branch for convolutional ones.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import Conv2d as LoraConv2d
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional as F


class NotFusableError(Exception):
    """The adapted model has a layer of a kind that cannot hold a copy a branch."""


@dataclass
class _BranchLinear:
    """Stands in for the forward of a PEFT LoRA ``Linear``."""

    base: nn.Module
    scaling: float
    down: Tensor  # (n, r, in)
    up: Tensor  # (n, out, r)

    def __call__(self, x: Tensor) -> Tensor:
        """``x`` (n * B, ..., in) to (n * B, ..., out)."""
        result: Tensor = self.base(x)
        n = self.down.shape[0]
        hidden = torch.bmm(x.reshape(n, -1, x.shape[-1]).to(self.down.dtype), self.down.mT)
        stacked = result.reshape(n, -1, result.shape[-1]).to(self.down.dtype)
        adapted = torch.baddbmm(stacked, hidden, self.up.mT, alpha=self.scaling)
        return adapted.view(result.shape).to(result.dtype)


@dataclass
class _BranchConv2d:
    """Stands in for the forward of a PEFT LoRA ``Conv2d``."""

    base: nn.Conv2d
    scaling: float
    down: Tensor  # (n, r, in, kh, kw)
    up: Tensor  # (n, out, r, 1, 1)

    def __call__(self, x: Tensor) -> Tensor:
        """``x`` (n * B, in, H, W) to (n * B, out, H', W')."""
        result: Tensor = self.base(x)
        n = self.down.shape[0]
        # (n * B, C, H, W) to (B, n * C, H, W): a group of channels a branch.
        branches = x.to(self.down.dtype).reshape(n, -1, *x.shape[1:])
        side_by_side = branches.transpose(0, 1).flatten(1, 2)
        base = self.base
        hidden = F.conv2d(
            side_by_side, self.down.flatten(0, 1), None, base.stride, base.padding, groups=n
        )
        adapted = F.conv2d(hidden, self.up.flatten(0, 1), groups=n)
        apart = adapted.reshape(adapted.shape[0], n, -1, *adapted.shape[2:])
        stacked = apart.transpose(0, 1).reshape(result.shape)
        return result.add(stacked, alpha=self.scaling).to(result.dtype)


class BranchCopies:
    """The per-branch copies of the trained weights of one or several models.

    Args:
        modules: the models that hold PEFT LoRA layers.
        weights: their trainable weights: each is a factor of a ``Linear`` or ``Conv2d`` LoRA layer.
        adapter: the adapter's name.

    Raises:
        NotFusableError: a trainable weight is something else, or a LoRA layer is more than its two
            factors (dropout, DoRA, a bias, a grouped or specially padded convolution).
    """

    def __init__(
        self, modules: Sequence[nn.Module], weights: Sequence[nn.Parameter], adapter: str
    ) -> None:
        self._weights = tuple(weights)
        places = {id(weight): index for index, weight in enumerate(weights)}
        self._layers: list[tuple[LoraLayer, int, int]] = []
        named = [found for module in modules for found in module.named_modules()]
        for name, layer in named:
            if isinstance(layer, LoraLayer) and adapter in layer.lora_A:
                _require_fusable(name, layer, adapter)
                down, up = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
                if id(down) in places and id(up) in places:
                    self._layers.append((layer, places.pop(id(down)), places.pop(id(up))))
        if places:
            raise NotFusableError(
                f"{len(places)} of the {len(weights)} trainable weights are not one of the two "
                "factors of a LoRA layer"
            )
        self._adapter = adapter

    @contextmanager
    def in_use(self, branches: int) -> Iterator[tuple[Tensor, ...]]:
        """Let the LoRA layers use ``branches`` copies of the weights as they are now.

        Yields the copies, leaves ``(branches, *weight.shape)`` in the order of the weights: ask
        autograd for *their* gradients. Afterwards the layers are as they were.
        """
        leaves = tuple(
            weight.detach().expand(branches, *weight.shape).clone().requires_grad_()
            for weight in self._weights
        )
        try:
            for layer, down, up in self._layers:
                # Past nn.Module.__setattr__, which is slow: this hides the class's own forward.
                layer.__dict__["forward"] = self._forward(layer, leaves[down], leaves[up])
            yield leaves
        finally:
            for layer, _, _ in self._layers:
                layer.__dict__.pop("forward", None)

    def _forward(self, layer: Any, down: Tensor, up: Tensor) -> _BranchLinear | _BranchConv2d:
        scaling = float(layer.scaling[self._adapter])
        if isinstance(layer, LoraLinear):
            return _BranchLinear(layer.base_layer, scaling, down, up)
        return _BranchConv2d(layer.base_layer, scaling, down, up)


def _require_fusable(name: str, layer: Any, adapter: str) -> None:
    """Raise ``NotFusableError`` where the layer is more than ``base(x) + scaling * B A x``."""
    base = layer.base_layer
    plain = isinstance(layer, LoraLinear) and isinstance(base, nn.Linear)
    if isinstance(layer, LoraConv2d) and isinstance(base, nn.Conv2d):
        # PEFT's own factor A has no dilation, no groups and no padding mode either.
        plain = base.groups == 1 and base.dilation == (1, 1) and base.padding_mode == "zeros"
    if not plain:
        raise NotFusableError(f"{name} is a {type(layer).__name__} of {base}, not a plain one")
    if not isinstance(layer.lora_dropout[adapter], nn.Identity):
        raise NotFusableError(f"{name} has dropout")
    if adapter in layer.lora_variant or layer.lora_bias[adapter]:
        raise NotFusableError(f"{name} is a variant of LoRA (DoRA, bias)")
    if list(layer.active_adapters) != [adapter] or layer.merged or layer.disable_adapters:
        raise NotFusableError(f"{name} has other adapters than {adapter!r} in use")
