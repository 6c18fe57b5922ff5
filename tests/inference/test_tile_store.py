"""Tiles on disk."""
import numpy as np
import pytest

from cellseg_mm.inference.tile_store import TileStore
from cellseg_mm.structures.cells import Cells
from cellseg_mm.structures.local_masks import LocalMasks


def some_cells(count, seed=0):
    rng = np.random.default_rng(seed)
    return Cells(LocalMasks.from_bitmaps(rng.random((count, 30, 40)) < 0.1), rng.integers(0, 4, count),
                 rng.random(count).astype(np.float32))


@pytest.mark.parametrize('count', [0, 1, 7])
def test_cells_come_back_as_they_were(tmp_path, count):
    cells = some_cells(count)
    TileStore(tmp_path / 'a', {'size': 3}).write(5, cells)
    store = TileStore(tmp_path / 'a', {'size': 3})
    assert 5 in store
    assert 4 not in store
    back = store.read(5)
    np.testing.assert_array_equal(back.masks.to_ndarray(), cells.masks.to_ndarray())
    np.testing.assert_array_equal(back.labels, cells.labels)
    np.testing.assert_array_equal(back.scores, cells.scores)
    assert back.scores.dtype == np.float32


def test_what_another_plan_left_is_deleted(tmp_path):
    TileStore(tmp_path, {'size': 3}).write(5, some_cells(2))
    assert 5 not in TileStore(tmp_path, {'size': 4})


def test_a_folder_without_a_plan_is_begun_anew(tmp_path):
    store = TileStore(tmp_path / 'a', {'size': 3})
    store.write(5, some_cells(2))
    (tmp_path / 'a' / 'plan.json').unlink()
    assert 5 not in TileStore(tmp_path / 'a', {'size': 3})


def test_nothing_is_left_of_a_deleted_one(tmp_path):
    store = TileStore(tmp_path / 'a', {'size': 3})
    store.write(5, some_cells(2))
    store.delete()
    assert not list(tmp_path.iterdir())
