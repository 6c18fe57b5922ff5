"""Tiles of glass are left out, and nothing else."""
import cv2
import numpy as np
import pytest

from cellseg_mm.inference.tissue import tissue_mask, tissue_tiles
from cellseg_mm.io.slide import ArrayImage
from cellseg_mm.structures.tiling import Tiling

GLASS, PINK, PALE = (243, 240, 242), (190, 150, 215), (210, 180, 200)


def scanned(height, width, color=GLASS, sigma=2):
    """A bright field with a scanner's noise."""
    noise = np.random.default_rng(0).standard_normal((height, width, 3), np.float32) * sigma
    return np.clip(np.float32(color) + noise, 0, 255).astype(np.uint8)


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


@pytest.mark.parametrize('radius', [4, 12, 40])
def test_a_single_pale_cell_is_tissue(radius):
    slide = scanned(2000, 2000)
    cv2.circle(slide, (1500, 700), radius, (215, 205, 225), -1)
    tiling = Tiling(2000, 2000, 256, 32)
    shown = {tuple(tiling.tiles[number]) for number in tissue_tiles(ArrayImage(slide), tiling)}
    assert any(x <= 1488 and x + w >= 1512 and y <= 688 and y + h >= 712 for x, y, w, h in shown)


class Reduced:
    """A slide of which there is an overview alone: glass of uneven light, and discs in full pixels (x, y, radius)."""

    def __init__(self, side, discs=(), color=PALE):
        self.height = self.width = side
        self._discs, self._color = discs, color

    def overview(self, side):
        reduction = self.width // side
        some = np.float32(scanned(512, 512, sigma=2 / reduction))
        view = np.tile(some, (side // 512 + 1, side // 512 + 1, 1))[:side, :side]
        field = np.linspace(-1, 1, 1500 // reduction, dtype=np.float32)**2  # a camera's, darker at its edges
        light = 1 - 0.02 * np.resize(field, side)
        view *= light[:, None, None] * light[:, None]
        for x, y, radius in self._discs:
            left, top, size = x // reduction - 8, y // reduction - 8, 16 * reduction
            disc = np.zeros((size, size), np.float32)
            cv2.circle(disc, (x - left * reduction, y - top * reduction), radius, 1, -1)
            share = cv2.resize(disc, (16, 16), interpolation=cv2.INTER_AREA)[..., None]
            view[top:top + 16, left:left + 16] *= 1 - share * (1 - np.float32(self._color) / np.float32(GLASS))
        view = np.clip(np.rint(view), 0, 255).astype(np.uint8)
        return cv2.imdecode(cv2.imencode('.jpg', view, [cv2.IMWRITE_JPEG_QUALITY, 85])[1], cv2.IMREAD_COLOR)


@pytest.mark.parametrize(('side', 'radius'), [(6000, 4), (33000, 5), (66000, 10)])
def test_single_pale_nuclei_are_seen_in_large_slides_and_glass_is_not(side, radius):
    tiling = Tiling(side, side, side // 40, 0)
    rng = np.random.default_rng(0)
    # Each in the middle half of another tile.
    tiles = rng.permutation(len(tiling.tiles))[:60]
    discs = [(tile.x + int(rng.uniform(0.25, 0.75) * tile.width), tile.y + int(rng.uniform(0.25, 0.75) * tile.height),
              radius) for tile in (tiling.tiles[number] for number in tiles)]
    assert tissue_tiles(Reduced(side, discs), tiling) == sorted(tiles.tolist())


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
