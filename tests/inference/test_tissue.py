"""Tiles of glass are left out, and nothing else."""
import cv2
import numpy as np
import pytest

from cellseg_mm.inference.tissue import tissue_mask, tissue_tiles
from cellseg_mm.io.slide import ArrayImage
from cellseg_mm.structures.tiling import Tiling

GLASS, PINK = (243, 240, 242), (190, 150, 215)


def scanned(height, width, color=GLASS, seed=0):
    """A bright field with a scanner's noise."""
    noise = np.random.default_rng(seed).normal(0, 2, (height, width, 3))
    return np.clip(np.array(color) + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize('side', [900, 4000])
def test_tiles_that_touch_tissue_are_shown_and_glass_is_not(side):
    slide = scanned(side, side)
    cv2.circle(slide, (side // 3, side // 2), side // 8, PINK, -1)
    tiling = Tiling(side, side, 200, 40)
    shown = tissue_tiles(ArrayImage(slide), tiling)
    touched = [number for number, (x, y, w, h) in enumerate(tiling.tiles)
               if (slide[y:y + h, x:x + w] == PINK).all(-1).any()]
    assert set(touched) <= set(shown)
    assert len(shown) < len(touched) + 0.25 * len(tiling.tiles)


def test_a_single_pale_cell_is_tissue():
    slide = scanned(2000, 2000)
    cv2.circle(slide, (1500, 700), 12, (215, 205, 225), -1)
    tiling = Tiling(2000, 2000, 256, 32)
    shown = {tuple(tiling.tiles[number]) for number in tissue_tiles(ArrayImage(slide), tiling)}
    assert any(x <= 1488 and x + w >= 1512 and y <= 688 and y + h >= 712 for x, y, w, h in shown)


def test_what_a_scanner_left_black_is_no_tissue():
    slide = scanned(1000, 1000)
    slide[:, :500] = 0
    assert not tissue_mask(slide)[:, :490].any()


@pytest.mark.parametrize('slide', [
    np.random.default_rng(0).integers(0, 40, (900, 900, 3)).astype(np.uint8),
    np.zeros((900, 900, 3), np.uint8),
    scanned(900, 900, PINK),
], ids=['fluorescence', 'black', 'tissue everywhere'])
def test_nothing_is_left_out_of_images_without_glass(slide):
    tiling = Tiling(900, 900, 200, 40)
    assert tissue_tiles(ArrayImage(slide), tiling) == list(range(len(tiling.tiles)))


def test_images_of_few_tiles_are_looked_at_whole():
    tiling = Tiling(900, 900, 500, 40)
    assert tissue_tiles(ArrayImage(scanned(900, 900)), tiling) == [0, 1, 2, 3]
