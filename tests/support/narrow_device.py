"""A device without float64, played by the CPU: what Apple's MPS refuses is refused here, too.

Inside ``NarrowDevice`` tensors may be sent ``to("mps")``. There they are float32 or narrower, meet
no tensor of the CPU but single numbers, and come back in their own type: MPS makes the new type
before it sends a tensor.
"""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

MPS = torch.device("mps")


class _There(Tensor):
    """Says that it is on the device; ``held`` has its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "_There":
        if held.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        made: _There = Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), dtype=held.dtype, device=MPS
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        known = {id(one.held): one for one in tensors if isinstance(one, _There)}
        sends = func is torch.ops.aten._to_copy.default
        if not sends and any(not isinstance(t, _There) and t.dim() for t in tensors):
            raise RuntimeError(f"{func}: of the CPU and of the device")
        device = kwargs.pop("device", None)
        stays = torch.device(MPS if device is None else device).type == MPS.type
        result = func(*tree_map(_held, args), **tree_map(_held, kwargs))
        placed = tree_map(lambda one: _placed(one, known), result)  # refuses float64 either way
        return placed if stays else result


class NarrowDevice(TorchFunctionMode):
    """The context."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.__getitem__ and isinstance(args[0], _There):  # would ask for the real one
            return _There(args[0].held[args[1]])
        asked = any(map(_names_it, (*args, *kwargs.values())))
        if not asked or any(isinstance(one, _There) for one in args):
            return func(*args, **kwargs)
        here = torch.device("cpu")
        args, kwargs = tree_map(lambda one: here if _names_it(one) else one, (args, kwargs))
        return _There(func(*args, **kwargs))


def _names_it(one: object) -> bool:
    return isinstance(one, str | torch.device) and str(one) == "mps"


def _held(one: object) -> object:
    return one.held if isinstance(one, _There) else one


def _placed(one: object, known: dict[int, _There]) -> object:
    if not isinstance(one, Tensor):
        return one
    return known[id(one)] if id(one) in known else _There(one)
