"""The bytes of a safetensors file are what the library reads, and no copy of the numbers."""

import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nsync_pipeline.adaptation.safetensors_file import NAMES, safetensors_parts

SHAPES = st.lists(st.integers(0, 3), max_size=3)


@settings(max_examples=30)
@given(st.dictionaries(st.sampled_from("a.b ü"), st.tuples(st.sampled_from([*NAMES]), SHAPES)))
def test_every_type_and_shape_comes_back(of: dict[str, tuple[torch.dtype, list[int]]]) -> None:
    plain = {n: (torch.randn(shape) * 50).to(torch.int8).to(d) for n, (d, shape) in of.items()}
    tensors = {n: tensor.mT if tensor.dim() > 1 else tensor for n, tensor in plain.items()}
    content = b"".join(safetensors_parts(tensors, {"b": "2", "a": "1"}))
    back = safetensors.torch.load(content)
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (back[name].dtype, back[name].shape) == (tensor.dtype, tensor.shape)
        assert back[name].equal(tensor)


def test_the_numbers_are_not_copied() -> None:
    tensor = torch.zeros(4)
    *_, numbers = safetensors_parts({"w": tensor}, {})
    tensor += 1.0
    assert bytes(numbers) == tensor.numpy().tobytes()
