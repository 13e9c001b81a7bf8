"""Named random streams.

Every random draw names what it is for, e.g. ``stream(seed, "negative", image_id, k)``. A stream
depends on its name alone, never on how many numbers were drawn before it: adding one picture
leaves every other picture's draws as they were, and a resumed run draws what an unbroken one would.
"""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def stream_seed(seed: int, *purpose: str | int) -> int:
    """The 63-bit seed of the stream called ``purpose`` under the root ``seed``."""
    name = "\x1f".join([str(seed), *(f"{type(part).__name__}:{part}" for part in purpose)])
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def torch_stream(seed: int, *purpose: str | int) -> "torch.Generator":
    """A CPU ``torch.Generator`` at the start of the stream called ``purpose``."""
    import torch  # seconds, and most that draws needs none of it

    return torch.Generator(device="cpu").manual_seed(stream_seed(seed, *purpose))


def numpy_stream(seed: int, *purpose: str | int) -> np.random.Generator:
    """A ``numpy`` generator at the start of the stream called ``purpose``."""
    return np.random.default_rng(stream_seed(seed, *purpose))
