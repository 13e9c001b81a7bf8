"""Parts of a batch: together they are the whole batch."""

import pytest
import torch

from pretraining.shards import one_thread_each, shard_rows


def test_shards_cover_the_batch_in_order() -> None:
    assert shard_rows(6, 2) == [slice(0, 3), slice(3, 6)]
    assert shard_rows(6, 1) == [slice(0, 6)]


def test_uneven_shards_are_refused() -> None:
    with pytest.raises(ValueError, match="7 does not divide into 2"):
        shard_rows(7, 2)


def test_mean_of_shard_gradients_is_the_batch_gradient() -> None:
    weight = torch.ones(3, requires_grad=True)
    rows = torch.arange(12.0).reshape(4, 3)

    def gradient(part: slice) -> torch.Tensor:
        return torch.autograd.grad((rows[part] * weight).pow(2).mean(), [weight])[0]

    with one_thread_each(2) as pool:
        assert torch.get_num_threads() == 1
        parts = list(pool.map(gradient, shard_rows(4, 2)))
    torch.testing.assert_close(torch.stack(parts).mean(dim=0), gradient(slice(0, 4)))


def test_thread_count_is_restored() -> None:
    before = torch.get_num_threads()
    with one_thread_each(2):
        pass
    assert torch.get_num_threads() == before
