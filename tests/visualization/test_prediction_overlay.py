import cv2
import numpy as np
import pytest

from cellseg_mm.io.image import read_image
from cellseg_mm.io.slide import ArrayImage
from cellseg_mm.structures.cells import Cells
from cellseg_mm.structures.local_masks import LocalMasks
from cellseg_mm.visualization import prediction_overlay
from cellseg_mm.visualization.overlay import class_colours, side_by_side
from cellseg_mm.visualization.prediction_overlay import draw_scale_bar, write_overlay

CLASSES = ['round', 'flat']
TISSUE = (150, 110, 190)  # no shade of grey, which texts have, nor of a class


def squares(shape, side, *corners):
    pixels = np.ones(side * side * len(corners), np.uint8)
    return LocalMasks(pixels, np.array([(x, y, side, side) for x, y in corners]).reshape(-1, 4), *shape)


def cells_of(masks, labels):
    return Cells(masks, np.array(labels, np.int64), np.full(len(masks), 0.9, np.float32))


def plain(height, width):
    return ArrayImage(np.full((height, width, 3), TISSUE, np.uint8))


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
        height, width, sides = 50_000, 40_000, []

        def overview(self, side):
            self.sides.append(side)
            return np.full((side, side * 4 // 5, 3), TISSUE, np.uint8)

    cells = cells_of(squares((50_000, 40_000), 2000, (1000, 3000), (34_000, 44_000)), [0, 1])
    write_overlay(tmp_path / 'a.png', Large(), cells, CLASSES, side=500)
    assert Large.sides == [500]
    drawn = read_image(tmp_path / 'a.png')
    left, top, right, bottom = places(drawn, TISSUE)
    assert (right - left, bottom - top) == (400, 500)
    panel, colours = drawn[top:bottom, left:right], class_colours(2)
    assert places(panel, colours[0]) == (10, 30, 30, 50)
    assert places(panel, colours[1]) == (340, 440, 360, 460)


def test_counts_of_each_class_stand_below(tmp_path):
    shape, written = (300, 400), []
    for labels in ([0, 0, 0], [0, 0, 0, 0]):
        write_overlay(tmp_path / 'a.png', plain(*shape), cells_of(squares(shape, 1, *[(5, 5)] * len(labels)), labels),
                      CLASSES)
        written.append(read_image(tmp_path / 'a.png'))
    differing = np.nonzero((written[0] != written[1]).any(axis=(1, 2)))[0]
    bottom = places(written[0], TISSUE)[3]
    assert differing.max() > bottom


@pytest.mark.parametrize('classes', [CLASSES, []])
def test_an_image_without_cells_is_drawn_as_it_is_over_counts_of_0(tmp_path, monkeypatch, classes):
    legends = []

    def noting(panels, legend):
        legends.append(legend)
        return side_by_side(panels, legend)

    monkeypatch.setattr(prediction_overlay, 'side_by_side', noting)
    write_overlay(tmp_path / 'a.png', plain(300, 400), Cells.none(300, 400), classes)
    drawn = read_image(tmp_path / 'a.png')
    left, top, right, bottom = places(drawn, TISSUE)
    assert (bottom - top) / 300 == (right - left) / 400 >= 1
    assert (drawn[top:bottom, left:right] == TISSUE).all()
    assert legends == [[(f'{name}: 0', colour) for name, colour in zip(classes, class_colours(2), strict=False)]]


@pytest.mark.parametrize('shape', [(1000, 1), (1, 1000), (1, 1), (3, 3)])
def test_images_of_a_line_have_a_scale_bar_too(tmp_path, shape):
    bgr = np.full((*shape, 3), TISSUE, np.uint8)
    assert draw_scale_bar(bgr, 0.25).shape == bgr.shape
    write_overlay(tmp_path / 'a.png', ArrayImage(bgr), Cells.none(*shape), CLASSES, mpp=0.25)
    assert (read_image(tmp_path / 'a.png') == TISSUE).all(axis=2).any()


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
        write_overlay(tmp_path / 'a.png', plain(size, size), Cells.none(size, size), [], side=side, mpp=1.0)
        drawn = read_image(tmp_path / 'a.png')
        left, top, right, bottom = places(drawn, TISSUE)
        white = (drawn[top:bottom, left:right] == 255).all(axis=2).sum(axis=1).max()
        length = white * size / (right - left)
        assert round(length) == {2000: 500, 100: 20}[size]


def test_there_is_no_scale_bar_where_the_pixel_size_is_unknown(tmp_path):
    found = []
    for mpp in (None, 2.0):
        write_overlay(tmp_path / 'a.png', plain(200, 200), Cells.none(200, 200), CLASSES, mpp=mpp)
        drawn = read_image(tmp_path / 'a.png')
        left, top, right, bottom = places(drawn, TISSUE)
        found.append((drawn[top:bottom, left:right] == TISSUE).all())
    assert found == [True, False]


def test_thousands_of_cells_take_no_canvas_each(tmp_path):
    """20,000 cells on 20,000 x 20,000 pixels: 8 TB of canvases, 8 MB of bitmaps."""
    side, corners = 20_000, [(x, y) for x in range(0, 19_980, 141) for y in range(0, 19_980, 141)][:20_000]

    class Large:
        height = width = side

        def overview(self, side):
            return np.full((side, side, 3), 200, np.uint8)

    cells = cells_of(squares((side, side), 20, *corners), np.arange(20_000) % 2)
    write_overlay(tmp_path / 'a.png', Large(), cells, CLASSES, side=1000)
    drawn = cv2.imread(str(tmp_path / 'a.png'))
    assert all((drawn == colour).all(axis=2).sum() > 9000 for colour in class_colours(2))
