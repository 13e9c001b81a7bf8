"""Per-branch copies of what is trained, and the layers that compute with them.

While the copies are in use, a batch of the model is ``n`` branches stacked: the first ``B`` samples
belong to branch 0, the next to branch 1, and so on. A LoRA layer with factors ``A, B`` computes,
for the samples of branch ``i``, ``base(x) + scaling * B_i A_i x`` with branch ``i``'s own copies: a
batched matrix product for linear layers, a convolution grouped by branch for convolutional ones.
Other adapters of the layer, frozen ones, are part of its base. A layer of another kind says itself
how it computes by branches (``Branched``).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Protocol, runtime_checkable

import torch
from peft.tuners import loha, lokr
from peft.tuners.loha.layer import LoHaLayer
from peft.tuners.lokr.layer import LoKrLayer
from peft.tuners.lora import Conv2d as LoraConv2d
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional as F

MIXED_ROWS = "mixed_rows"
"""Set on a layer whose input is not a sample after another, as many rows each."""

BY_SAMPLE = "by_sample"
"""Set on a dropout whose masks hang on the samples, so that all branches may go through at once."""


class NotFusableError(Exception):
    """The adapted model has a layer of a kind that cannot hold a copy a branch."""


Forward = Callable[[Tensor], Tensor]


@runtime_checkable
class Branched(Protocol):
    """A layer that can compute with a copy of its weights a branch."""

    def branch_weights(self) -> tuple[nn.Parameter, ...]: ...

    def branch_forward(self, copies: Sequence[Tensor]) -> Forward:
        """The forward for n branches stacked; each copy is (n, *weight.shape)."""
        ...


def _meeting(x: Tensor, weight: Tensor) -> Tensor:
    """``x`` in the type of a weight it is multiplied by; under autocast that is as it says."""
    return x if torch.is_autocast_enabled(x.device.type) else x.to(weight.dtype)


def _linear(
    base: Forward, dropped: Forward, scaling: float, down: Tensor, up: Tensor, x: Tensor
) -> Tensor:
    """A LoRA ``Linear``: ``down`` (n, r, in), ``up`` (n, out, r), ``x`` (n * B, ..., in)."""
    result = base(x)
    n = down.shape[0]
    hidden = torch.bmm(dropped(_meeting(x, down)).reshape(n, -1, x.shape[-1]), down.mT)
    stacked = result.reshape(n, -1, result.shape[-1]).to(hidden.dtype)
    adapted = torch.baddbmm(stacked, hidden, up.mT, alpha=scaling)
    return adapted.view(result.shape).to(x.dtype)


def _convolution(
    base: Forward,
    dropped: Forward,
    convolution: nn.Conv2d,
    scaling: float,
    down: Tensor,
    up: Tensor,
    x: Tensor,
) -> Tensor:
    """A LoRA ``Conv2d``: ``down`` (n, r, in, kh, kw), ``up`` (n, out, r, 1, 1)."""
    result = base(x)
    n = down.shape[0]
    hidden = F.conv2d(
        _side_by_side(dropped(_meeting(x, down)), n), down.flatten(0, 1), None, convolution.stride,
        convolution.padding, groups=n,
    )  # fmt: skip
    adapted = F.conv2d(hidden, up.flatten(0, 1), groups=n)
    return result.add(_apart(adapted, n, result), alpha=scaling).to(x.dtype)


def _side_by_side(x: Tensor, n: int) -> Tensor:
    """(n * B, C, H, W) as (B, n * C, H, W): a group of channels a branch."""
    return x.reshape(n, -1, *x.shape[1:]).transpose(0, 1).flatten(1, 2)


def _apart(side_by_side: Tensor, n: int, like: Tensor) -> Tensor:
    """The way back."""
    apart = side_by_side.reshape(side_by_side.shape[0], n, -1, *side_by_side.shape[2:])
    return apart.transpose(0, 1).reshape(like.shape)


def _kronecker_linear(base: Forward, scaling: float, w1: Tensor, w2: Tensor, x: Tensor) -> Tensor:
    """A LoKr ``Linear``, without its product: ``w1`` (n, a, b), ``w2`` (n, c, d), in = b d."""
    result = base(x)
    n, b, d = w1.shape[0], w1.shape[2], w2.shape[2]
    hidden = torch.bmm(x.to(w1.dtype).reshape(n, -1, d), w2.mT)  # (n, B ... b, c)
    hidden = hidden.reshape(n, -1, b, hidden.shape[-1]).transpose(1, 2).flatten(2)
    adapted = torch.bmm(w1, hidden)  # (n, a, B ... c)
    rows = adapted.reshape(*adapted.shape[:2], -1, w2.shape[1]).transpose(1, 2)
    return result.add(rows.reshape(result.shape), alpha=scaling).to(x.dtype)


def _changed_linear(base: Forward, scaling: float, change: Tensor, x: Tensor) -> Tensor:
    """A ``Linear`` whose weight changes by ``scaling * change``, (n, out, in)."""
    result = base(x)
    n = change.shape[0]
    inputs = x.reshape(n, -1, x.shape[-1]).to(change.dtype)
    stacked = result.reshape(n, -1, result.shape[-1]).to(change.dtype)
    adapted = torch.baddbmm(stacked, inputs, change.mT, alpha=scaling)
    return adapted.view(result.shape).to(x.dtype)


def _changed_convolution(
    base: Forward, convolution: nn.Conv2d, scaling: float, change: Tensor, x: Tensor
) -> Tensor:
    """A ``Conv2d`` whose weight changes by ``scaling * change``, (n, out, in, kh, kw)."""
    result = base(x)
    n = change.shape[0]
    adapted = F.conv2d(
        _side_by_side(x.to(change.dtype), n), change.flatten(0, 1), None, convolution.stride,
        convolution.padding, convolution.dilation, groups=n,
    )  # fmt: skip
    return result.add(_apart(adapted, n, result), alpha=scaling).to(x.dtype)


def _lycoris(layer: Any, scaling: float, parts: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """A LoKr or LoHa layer whose factors are ``parts``, by PEFT's names."""
    base, plain = layer.base_layer, layer.get_base_layer()
    if isinstance(layer, LoKrLayer):
        w1, w2 = (
            parts[name] if name in parts else torch.bmm(parts[f"{name}_a"], parts[f"{name}_b"])
            for name in ("lokr_w1", "lokr_w2")
        )
        if isinstance(plain, nn.Linear):
            return _kronecker_linear(base, scaling, w1, w2, x)
        change = torch.einsum("nij,nkl->nikjl", w1, w2.flatten(2))
    else:
        change = torch.bmm(parts["hada_w1_a"], parts["hada_w1_b"])
        change = change * torch.bmm(parts["hada_w2_a"], parts["hada_w2_b"])
    change = change.reshape(change.shape[0], *plain.weight.shape)
    if isinstance(plain, nn.Linear):
        return _changed_linear(base, scaling, change, x)
    return _changed_convolution(base, plain, scaling, change, x)


LYCORIS = (LoKrLayer, LoHaLayer)
LINEAR = (LoraLinear, loha.Linear, lokr.Linear)
CONVOLUTION = (LoraConv2d, loha.Conv2d, lokr.Conv2d)


def _with_frozen(layer: Any, adapters: Sequence[str], x: Tensor) -> Tensor:
    """A LoRA layer's base with its frozen ``adapters`` on it."""
    result: Tensor = layer.base_layer(x)
    for adapter in adapters:
        down, up = layer.lora_A[adapter], layer.lora_B[adapter]
        result = result + up(down(x.to(down.weight.dtype))) * layer.scaling[adapter]
    return result  # rounded to the layer's own type once all is added, as PEFT does


@dataclass(frozen=True)
class _Copies:
    leaves: tuple[Tensor, ...]  # (branches, *weight.shape), in the order of the weights
    forwards: tuple[Forward, ...]  # in the order of the layers


class BranchCopies:
    """The per-branch copies of the trained weights of one or several models.

    Each of the ``weights`` is a factor of a ``Linear`` or ``Conv2d`` LoRA, LoKr or LoHa layer, or a
    weight of a ``Branched`` layer, of one of the ``modules``.

    Raises:
        NotFusableError: a trainable weight is something else, or a LoRA layer is more than its two
            factors (dropout, DoRA, a bias, a grouped or specially padded convolution), or has
            other adapters in use that are trained.
    """

    def __init__(
        self, modules: Sequence[nn.Module], weights: Sequence[nn.Parameter], adapter: str
    ) -> None:
        self._weights, self._adapter = tuple(weights), adapter
        compiled = (getattr(module, "_compiled_call_impl", None) for module in modules)
        self._is_compiled = any(call is not None for call in compiled)
        self._kept: dict[tuple[int, tuple[bool, ...]], _Copies] = {}  # of a compiled model
        places = {id(weight): index for index, weight in enumerate(weights)}
        self._layers: list[tuple[Any, tuple[int, ...]]] = []
        self._parts: dict[int, tuple[str, ...]] = {}  # of LoKr and LoHa layers
        for name, layer in chain.from_iterable(module.named_modules() for module in modules):
            own: tuple[nn.Parameter, ...]
            if isinstance(layer, LoraLayer) and adapter in layer.lora_A:
                _require_fusable(name, layer, adapter)
                own = (layer.lora_A[adapter].weight, layer.lora_B[adapter].weight)
            elif isinstance(layer, LYCORIS):
                _require_plain(name, layer, adapter)
                factors = {
                    part: getattr(layer, part)[adapter]
                    for part in layer.adapter_layer_names
                    if adapter in getattr(layer, part)
                }
                own, self._parts[id(layer)] = tuple(factors.values()), tuple(factors)
            elif isinstance(layer, Branched):
                own = layer.branch_weights()
            else:
                continue
            if all(id(weight) in places for weight in own):
                self._layers.append((layer, tuple(places.pop(id(weight)) for weight in own)))
        if places:
            raise NotFusableError(
                f"{len(places)} of the {len(weights)} trainable weights are neither a factor "
                "of a LoRA layer nor of a layer that can compute by branches"
            )

    @contextmanager
    def in_use(self, branches: int, mirrored: Sequence[bool] = ()) -> Iterator[tuple[Tensor, ...]]:
        """Let the layers use ``branches`` copies of the weights as they are now.

        A branch that is ``mirrored`` computes ``base(x) - scaling * B A x``: with what is trained
        taken off instead of added.

        Yields the copies, leaves ``(branches, *weight.shape)`` in the order of the weights: ask
        autograd for *their* gradients. Afterwards the layers are as they were.
        """
        copies = self._copies(branches, tuple(mirrored))
        try:
            for (layer, _), forward in zip(self._layers, copies.forwards, strict=True):
                # Past nn.Module.__setattr__, which is slow: this hides the class's own forward.
                layer.__dict__["forward"] = forward
            yield copies.leaves
        finally:
            for layer, _ in self._layers:
                layer.__dict__.pop("forward", None)

    def _copies(self, branches: int, mirrored: tuple[bool, ...]) -> "_Copies":
        """Fresh ones; of a compiled model the same in every step, or it would be compiled again."""
        expanded = [weight.detach().expand(branches, *weight.shape) for weight in self._weights]
        if (kept := self._kept.get((branches, mirrored))) is not None:
            with torch.no_grad():
                torch._foreach_copy_(list(kept.leaves), expanded)
            return kept
        leaves = tuple(weight.clone().requires_grad_() for weight in expanded)
        forwards = []
        for layer, places in self._layers:
            own = [leaves[i] for i in places]
            forward = self._forward(layer, own)
            if any(mirrored):
                forward = partial(self._mirrored, layer, own, mirrored)
            forwards.append(forward)
        made = _Copies(leaves, tuple(forwards))
        if self._is_compiled:
            self._kept[branches, mirrored] = made
        return made

    def _mirrored(
        self, layer: Any, copies: Sequence[Tensor], mirrored: Sequence[bool], x: Tensor
    ) -> Tensor:
        """Signs are changed in each pass anew: every micro-batch has a way back of its own."""
        return self._forward(layer, [_mirrored(copies[0], mirrored), *copies[1:]])(x)

    def _forward(self, layer: Any, copies: Sequence[Tensor]) -> Forward:
        if isinstance(layer, Branched):
            return layer.branch_forward(copies)
        if isinstance(layer, LYCORIS):
            parts = dict(zip(self._parts[id(layer)], copies, strict=True))
            return partial(_lycoris, layer, float(layer.scaling[self._adapter]), parts)
        down, up = copies
        dropped = layer.lora_dropout[self._adapter]
        scaling = float(layer.scaling[self._adapter])
        frozen = [a for a in layer.active_adapters if a != self._adapter]
        base = partial(_with_frozen, layer, frozen) if frozen else layer.base_layer
        if isinstance(layer, LoraLinear):
            return partial(_linear, base, dropped, scaling, down, up)
        return partial(_convolution, base, dropped, layer.base_layer, scaling, down, up)


def _mirrored(down: Tensor, mirrored: Sequence[bool]) -> Tensor:
    """``-A`` in the branches that are mirrored: the product it is in changes its sign."""
    signs = down.new_tensor([-1.0 if is_mirrored else 1.0 for is_mirrored in mirrored])
    return down * signs.view(-1, *[1] * (down.dim() - 1))


def _require_fusable(name: str, layer: Any, adapter: str) -> None:
    """Raise ``NotFusableError`` where the layer is more than ``base(x) + scaling * B A x``."""
    _require_plain(name, layer, adapter)
    dropout = layer.lora_dropout[adapter]
    if not (isinstance(dropout, nn.Identity) or getattr(dropout, BY_SAMPLE, False)):
        raise NotFusableError(f"{name} has dropout")
    if adapter in layer.lora_variant or layer.lora_bias[adapter]:
        raise NotFusableError(f"{name} is a variant of LoRA (DoRA, bias)")
    for other in layer.active_adapters:
        factors = (layer.lora_A[other].weight, layer.lora_B[other].weight)
        if other != adapter and any(weight.requires_grad for weight in factors):
            raise NotFusableError(f"{name} has another trained adapter, {other!r}, in use")


def _require_plain(name: str, layer: Any, adapter: str) -> None:
    """Raise ``NotFusableError`` where the layer is not a plain one with ``adapter`` in use."""
    base = layer.base_layer
    plain = isinstance(base, nn.Linear) and isinstance(layer, LINEAR)
    if isinstance(base, nn.Conv2d) and isinstance(layer, CONVOLUTION):
        # PEFT's own factor A has no dilation, no groups and no padding mode either.
        plain = base.groups == 1 and base.dilation == (1, 1) and base.padding_mode == "zeros"
    if not plain:
        raise NotFusableError(f"{name} is a {type(layer).__name__} of {base}, not a plain one")
    if getattr(base, MIXED_ROWS, False):
        raise NotFusableError(f"{name} is given all samples' tokens in a row, as many as each has")
    if adapter not in layer.active_adapters or layer.merged or layer.disable_adapters:
        raise NotFusableError(f"{name} does not have its adapter {adapter!r} in use")
    if isinstance(layer, LYCORIS) and len(layer.active_adapters) > 1:
        raise NotFusableError(f"{name} has another adapter in use")
