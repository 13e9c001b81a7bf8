"""Features on disk."""

from pathlib import Path

import numpy as np
import pytest

from nsync_pipeline.metrics.feature_cache import FeatureCache

ROWS = np.array([[1.0, 2.0], [3.0, 4.0]])


class Network:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> np.ndarray:
        self.calls += 1
        return ROWS


def test_the_same_pictures_are_computed_once(tmp_path: Path) -> None:
    network = Network()
    for _ in range(2):
        found = FeatureCache(tmp_path / "kept").features("weights", ["a 64", "b 64"], network)
        np.testing.assert_array_equal(found, ROWS)
    assert network.calls == 1


@pytest.mark.parametrize(
    ("weights", "pictures"),
    [("other", ["a 64", "b 64"]), ("weights", ["b 64", "a 64"]), ("weights", ["a 64", "b 32"])],
)
def test_other_weights_pictures_or_crops_are_computed(
    tmp_path: Path, weights: str, pictures: list[str]
) -> None:
    cache, network = FeatureCache(tmp_path), Network()
    cache.features("weights", ["a 64", "b 64"], network)
    cache.features(weights, pictures, network)
    assert network.calls == 2


@pytest.mark.parametrize("damage", ["cut", "emptied", "other rows"])
def test_a_damaged_file_is_computed_again(tmp_path: Path, damage: str) -> None:
    cache, network = FeatureCache(tmp_path), Network()
    cache.features("weights", ["a", "b"], network)
    (file,) = tmp_path.glob("*.npy")
    if damage == "other rows":
        np.save(file, ROWS[:1])
    else:
        file.write_bytes(file.read_bytes()[:-9] if damage == "cut" else b"")
    np.testing.assert_array_equal(cache.features("weights", ["a", "b"], network), ROWS)
    assert network.calls == 2
    cache.features("weights", ["a", "b"], network)
    assert network.calls == 2


def test_where_nothing_can_be_kept_features_are_computed_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    found = FeatureCache(tmp_path / "taken").features("weights", ["a", "b"], Network())
    np.testing.assert_array_equal(found, ROWS)
