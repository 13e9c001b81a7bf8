"""Encodings kept on disk: whole shards, memory-mapped, of one recipe."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from nsync_pipeline.training.tensor_store import TensorStore

RECIPE = {"base": "a"}


def latent(value: float, *shape: int) -> dict[str, Tensor]:
    return {"latents": torch.full(shape or (2, 3, 3), value)}


def filled(folder: Path | None, values: list[float]) -> TensorStore:
    store = TensorStore(folder, RECIPE)
    for value in values:
        if str(value) not in store:
            store.put(str(value), latent(value))
    store.flush()
    return store


@pytest.mark.parametrize("on_disk", [True, False])
def test_rows_come_in_the_order_asked_for(tmp_path: Path, on_disk: bool) -> None:
    store = filled(tmp_path if on_disk else None, [0.0, 1.0, 2.0])
    rows = store.rows(["2.0", "0.0", "2.0"], "latents")
    assert len(rows) == 3
    assert rows.shape(0) == (2, 3, 3)
    assert [float(row.mean()) for row in rows.stacked([0, 1, 2])] == [2.0, 0.0, 2.0]
    assert [float(rows.part(1, 3)[place].mean()) for place in (0, 1)] == [0.0, 2.0]


def test_what_is_there_is_found_by_the_next_and_added_to(tmp_path: Path) -> None:
    filled(tmp_path, [0.0, 1.0])
    again = filled(tmp_path, [0.0, 1.0, 2.0])
    files = sorted(tmp_path.rglob("*.safetensors"))
    assert len(files) == 2  # the second holds the new one alone
    assert again.rows(["1.0", "2.0"], "latents")[1].mean() == 2.0
    third = TensorStore(tmp_path, RECIPE)
    assert all(str(value) in third for value in (0.0, 1.0, 2.0))


def test_rows_on_disk_are_mapped_and_not_read(tmp_path: Path) -> None:
    filled(tmp_path, [0.0])
    rows = TensorStore(tmp_path, RECIPE).rows(["0.0"], "latents")
    assert isinstance(rows.arrays[0], np.memmap)
    rows[0].fill_(9.0)  # a copy
    assert rows[0].mean() == 0.0


def test_tensors_of_several_shapes_go_into_a_shard_a_shape(tmp_path: Path) -> None:
    store = TensorStore(tmp_path, RECIPE)
    for key, shape in (("a", (2, 4, 2)), ("b", (2, 2, 4)), ("c", (2, 4, 2))):
        store.put(key, latent(1.0, *shape))
    rows = store.rows(["a", "b", "c"], "latents")
    assert [rows.shape(place) for place in range(3)] == [(2, 4, 2), (2, 2, 4), (2, 4, 2)]
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2


def test_a_key_may_have_several_tensors(tmp_path: Path) -> None:
    store = TensorStore(tmp_path, RECIPE)
    store.put("a prompt", {"tokens": torch.ones(3, 5), "pooled": torch.zeros(4)})
    assert sorted(store.names()) == ["pooled", "tokens"]
    assert store.rows(["a prompt"], "pooled")[0].tolist() == [0.0] * 4


def test_a_large_set_is_written_in_several_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A latent has 18 numbers of 4 bytes: shards of two at a limit of 144."""
    monkeypatch.setattr("nsync_pipeline.training.tensor_store.SHARD_BYTES", 144)
    store = filled(tmp_path, [0.0, 1.0, 2.0, 3.0, 4.0])
    assert len(list(tmp_path.rglob("*.safetensors"))) == 3
    assert store.rows(["4.0"], "latents")[0].mean() == 4.0


def test_encodings_of_another_recipe_are_not_seen_and_removed(tmp_path: Path) -> None:
    filled(tmp_path, [0.0])
    other = TensorStore(tmp_path, {"base": "b"})
    assert "0.0" not in other
    assert list(tmp_path.rglob("*.safetensors")) == []


@pytest.mark.parametrize("left", [4, 40, 150])
def test_a_damaged_shard_is_passed_over(
    tmp_path: Path, left: int, caplog: pytest.LogCaptureFixture
) -> None:
    filled(tmp_path, [0.0])
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:left])
    assert "0.0" not in TensorStore(tmp_path, RECIPE)
    assert "is damaged and not used" in caplog.text
    assert filled(tmp_path, [0.0]).rows(["0.0"], "latents")[0].mean() == 0.0


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    filled(tmp_path, [0.0])
    (folder,) = tmp_path.iterdir()
    old, fresh = folder / "old.partial", folder / "fresh.partial"
    for file in (old, fresh):
        file.write_bytes(b"half")
    os.utime(old, (0, 0))
    assert "0.0" in TensorStore(tmp_path, RECIPE)
    assert (old.exists(), fresh.exists()) == (False, True)


def test_the_same_encodings_are_the_same_file(tmp_path: Path) -> None:
    """Two processes that encode the same write over each other's equal files."""
    first, second = (TensorStore(tmp_path, RECIPE) for _ in range(2))
    for store in (first, second):
        store.put("a", latent(1.0))
        store.flush()
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    assert first.rows(["a"], "latents")[0].equal(second.rows(["a"], "latents")[0])
