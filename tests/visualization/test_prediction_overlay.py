import cv2
import numpy as np
import pytest

from cellseg_mm.io.image import read_image
from cellseg_mm.io.slide import ArrayImage
from cellseg_mm.structures.cells import Cells
from cellseg_mm.structures.local_masks import LocalMasks
from cellseg_mm.visualization import prediction_overlay
from cellseg_mm.visualization.overlay import class_colours
from cellseg_mm.visualization.prediction_overlay import draw_scale_bar, write_overlay

CLASSES = ['round', 'flat']
TISSUE = (150, 110, 190)  # no shade of grey, which texts have, nor of a class


def squares(shape, side, *corners):
    pixels = np.ones(side * side * len(corners), np.uint8)
    return LocalMasks(pixels, np.array([(x, y, side, side) for x, y in corners]).reshape(-1, 4), *shape)


def cells_of(masks, labels):
    return Cells(masks, np.array(labels, np.int64), np.full(len(masks), 0.9, np.float32))


def plain(height, width, mpp=None):
    return ArrayImage(np.full((height, width, 3), TISSUE, np.uint8), mpp)


def places(bgr, colour):
    """Left, top, right and bottom of what is of a colour."""
    ys, xs = np.nonzero((bgr == colour).all(axis=2))
    return xs.min(), ys.min(), xs.max() + 1, ys.max() + 1


def test_cells_are_outlined_where_they_are_in_the_colour_of_their_class(tmp_path):
    shape = 1000, 1400
    image = plain(*shape)
    write_overlay(tmp_path / 'a.png', image, cells_of(squares(shape, 40, (100, 200), (900, 700)), [0, 1]), CLASSES)
    drawn = read_image(tmp_path / 'a.png')
    left, top, right, bottom = places(drawn, TISSUE)
    assert (right - left, bottom - top) == shape[::-1]
    panel, colours = drawn[top:bottom, left:right], class_colours(2)
    assert places(panel, colours[0]) == (100, 200, 140, 240)
    assert places(panel, colours[1]) == (900, 700, 940, 740)
    inside = panel[220, 120].astype(int)
    assert 0 < np.abs(inside - TISSUE).max() < 50


def test_a_larger_image_is_drawn_on_its_overview(tmp_path):
    shape = 800, 1000
    corners = [(100, 200), (101, 600), (500, 750)]
    cells = cells_of(squares(shape, 40, *corners), [0, 0, 1])
    write_overlay(tmp_path / 'a.png', plain(*shape), cells, CLASSES, side=100)
    drawn = read_image(tmp_path / 'a.png')
    left, top, right, bottom = places(drawn, TISSUE)
    assert (right - left, bottom - top) == (100, 80)
    assert places(drawn[top:bottom, left:right], class_colours(2)[1]) == (50, 75, 54, 79)


def test_a_cell_smaller_than_a_pixel_of_the_overview_is_still_seen(tmp_path):
    shape, corners = (1000, 1000), [(x, y) for x in range(3, 1000, 97) for y in range(3, 1000, 97)]
    write_overlay(tmp_path / 'a.png', plain(*shape), cells_of(squares(shape, 1, *corners), [0] * len(corners)), CLASSES,
                  side=100)
    drawn = read_image(tmp_path / 'a.png')
    left, top, right, bottom = places(drawn, TISSUE)
    assert (drawn[top:bottom, left:right] == class_colours(1)[0]).all(axis=2).sum() == len(corners)


def test_only_the_overview_is_read(tmp_path):
    class Large:
        height, width, mpp = 50_000, 40_000, 0.25

        def overview(self, side):
            return np.full((side, side * 4 // 5, 3), 200, np.uint8)

    cells = cells_of(squares((50_000, 40_000), 20, (0, 0), (39_980, 49_980)), [0, 1])
    write_overlay(tmp_path / 'a.png', Large(), cells, CLASSES, side=500)
    assert read_image(tmp_path / 'a.png').shape[0] > 500


def test_counts_of_each_class_stand_below(tmp_path):
    shape, written = (300, 400), []
    for labels in ([0, 0, 0], [0, 0, 0, 0]):
        write_overlay(tmp_path / 'a.png', plain(*shape), cells_of(squares(shape, 1, *[(5, 5)] * len(labels)), labels),
                      CLASSES)
        written.append(read_image(tmp_path / 'a.png'))
    differing = np.nonzero((written[0] != written[1]).any(axis=(1, 2)))[0]
    bottom = places(written[0], TISSUE)[3]
    assert differing.max() > bottom


def test_no_cell_and_no_class_without_cells_are_a_problem(tmp_path):
    write_overlay(tmp_path / 'a.png', plain(30, 40), Cells.none(30, 40), CLASSES)
    assert read_image(tmp_path / 'a.png').any()


@pytest.mark.parametrize(('mpp', 'width'), [(0.25, 900), (0.5, 4096), (3.0, 640), (1e-3, 1200), (250.0, 1000)])
def test_a_scale_bar_is_a_round_number_of_micrometres_long(monkeypatch, mpp, width):
    texts = []
    draw = prediction_overlay.ImageDraw.Draw

    def noting(page):
        pen = draw(page)
        text = pen.text
        pen.text = lambda place, words, *args, **kwargs: (texts.append(words), text(place, words, *args, **kwargs))
        return pen

    monkeypatch.setattr(prediction_overlay.ImageDraw, 'Draw', noting)
    image = np.full((400, width, 3), TISSUE, np.uint8)
    drawn = draw_scale_bar(image, mpp)
    assert (image == TISSUE).all()
    row = (drawn[:, :] == 255).all(axis=2).sum(axis=1)
    length = row[-round(width / 60) - 3:].max() * mpp
    number, unit = texts[0].split()
    said = float(number) * {'µm': 1, 'mm': 1000}[unit]
    assert f'{said:e}'.partition('e')[0].rstrip('0.') in ('1', '2', '5')
    assert abs(length - said) <= mpp
    assert 0.09 * width < length / mpp <= 0.25 * width + 1


def test_the_scale_bar_stays_as_long_as_it_says_where_the_image_is_made_smaller_or_larger(tmp_path):
    for size, side in ((2000, 500), (100, 4096)):
        write_overlay(tmp_path / 'a.png', plain(size, size, mpp=1.0), Cells.none(size, size), [], side=side)
        drawn = read_image(tmp_path / 'a.png')
        left, top, right, bottom = places(drawn, TISSUE)
        white = (drawn[top:bottom, left:right] == 255).all(axis=2).sum(axis=1).max()
        length = white * size / (right - left)
        assert round(length) == {2000: 500, 100: 20}[size]


def test_another_pixel_size_than_the_images_own_can_be_given(tmp_path):
    written = []
    for image, mpp in ((plain(200, 200), 2.0), (plain(200, 200, 2.0), None), (plain(200, 200, 7.0), 2.0)):
        write_overlay(tmp_path / 'a.png', image, Cells.none(200, 200), CLASSES, mpp=mpp)
        written.append((tmp_path / 'a.png').read_bytes())
    assert written[0] == written[1] == written[2]
    write_overlay(tmp_path / 'b.png', plain(200, 200), Cells.none(200, 200), CLASSES)
    assert (tmp_path / 'b.png').read_bytes() != written[0]


def test_thousands_of_cells_take_no_canvas_each(tmp_path):
    """20,000 cells on 20,000 x 20,000 pixels: 8 TB of canvases, 8 MB of bitmaps."""
    side, corners = 20_000, [(x, y) for x in range(0, 19_980, 141) for y in range(0, 19_980, 141)][:20_000]

    class Large:
        height = width = side
        mpp = None

        def overview(self, side):
            return np.full((side, side, 3), 200, np.uint8)

    cells = cells_of(squares((side, side), 20, *corners), np.arange(20_000) % 2)
    write_overlay(tmp_path / 'a.png', Large(), cells, CLASSES, side=1000)
    drawn = cv2.imread(str(tmp_path / 'a.png'))
    assert all((drawn == colour).all(axis=2).sum() > 9000 for colour in class_colours(2))
