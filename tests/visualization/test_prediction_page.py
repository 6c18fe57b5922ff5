import base64
import json
import re
from contextlib import ExitStack
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from browser import milliseconds_to_zoom, opened

from cellseg_mm.io.slide import ArrayImage
from cellseg_mm.structures.cells import Cells
from cellseg_mm.structures.local_masks import LocalMasks
from cellseg_mm.visualization import viewer
from cellseg_mm.visualization.overlay import class_colours
from cellseg_mm.visualization.prediction_page import thumbnail, write_index, write_viewer

CLASSES = ['round', 'flat']
HOSTILE = '</script><b onclick="x">&amp;"\'{{ 1 }}<!--'


@pytest.fixture
def show(chromium, tmp_path):
    """Write the page of an image, open it, and wait for the image."""
    with ExitStack() as stack:

        def write_and_open(image, cells, classes=CLASSES, change=lambda html: html, name='slide', **options):
            path = tmp_path / f'{name}.html'
            write_viewer(path, image, cells, classes, mpp=image.mpp, **options)
            path.write_text(change(path.read_text('utf-8')), 'utf-8')
            page = stack.enter_context(opened(chromium, path))
            page.locator('.viewer[data-ready="0"]').wait_for()
            return page

        yield write_and_open


def disks(shape, *places, radius=8):
    return LocalMasks.from_bitmaps(np.array(
        [cv2.circle(np.zeros(shape, np.uint8), place, radius, 1, -1) for place in places]).reshape(-1, *shape))


def cells_of(masks, labels, scores):
    return Cells(masks, np.array(labels, np.int64), np.array(scores, np.float32))


def three():
    """Two round cells and a flat one."""
    return cells_of(disks((60, 90), (15, 15), (45, 15), (75, 45)), [0, 0, 1], [0.9, 0.5, 0.62])


def noise(height, width, mpp=None):
    return ArrayImage(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8), mpp)


def grey(height, width, mpp=None):
    return ArrayImage(np.full((height, width, 3), 128, np.uint8), mpp)


def specks(side, step, seed=0):
    """Cells of one pixel each, `step` pixels from each other, of two classes."""
    corners = np.array([(x, y) for x in range(step, side, step) for y in range(step, side, step)])
    masks = LocalMasks(np.ones(len(corners), np.uint8), np.hstack([corners, np.ones_like(corners)]), side, side)
    return cells_of(masks, np.arange(len(masks)) % 2, np.random.default_rng(seed).uniform(0.3, 1, len(masks)))


def move_slider(page, score):
    page.locator('.score input').evaluate("""(slider, score) => {
      slider.value = score;
      slider.dispatchEvent(new Event('input'));
    }""", score)


def counts(page):
    return [page.locator('.count').inner_text(), *page.locator('.classes button').all_inner_texts()]


def drawn(page):
    """The canvas: uint8 (H, W, 3) BGR."""
    url = page.locator('.viewer').evaluate("""async viewer => {
      for (let i = 0; i < 2; i++) await new Promise(requestAnimationFrame);
      return viewer.querySelector('canvas').toDataURL();
    }""")
    return cv2.imdecode(np.frombuffer(base64.b64decode(url.partition(',')[2]), np.uint8), cv2.IMREAD_COLOR)


def in_colour(bgr, label):
    return (bgr == class_colours(2)[label]).all(axis=2)


def point(page, x, y, width, height):
    """Move the pointer to (x, y) of an image of that size that fits its pane."""
    box = page.locator('.stage').bounding_box()
    scale = min((box['width'] - 2) / width, (box['height'] - 2) / height)
    page.mouse.move(box['x'] + box['width'] / 2 + scale * (x - width / 2),
                    box['y'] + box['height'] / 2 + scale * (y - height / 2))


def image_of(path):
    """What the script of a page is given: all of its image."""
    found = re.findall(r'<script type="application/json">(.*?)</script>', path.read_text('utf-8'), re.DOTALL)
    return json.loads(found[1])


def test_cells_below_the_score_vanish_and_the_counts_follow(show):
    page = show(noise(60, 90), three())
    before = drawn(page)
    assert counts(page) == ['3 cells', 'round 2', 'flat 1']
    assert page.locator('.score').inner_text().split() == ['Score', '≥', '0.50']
    move_slider(page, 0.61)
    assert counts(page) == ['2 of 3 cells', 'round 1 of 2', 'flat 1']
    assert page.locator('.score').inner_text().split()[-1] == '0.61'
    assert (drawn(page) != before).any()
    point(page, 45, 15, 90, 60)
    assert not page.locator('.tip').is_visible()
    move_slider(page, 1)
    assert counts(page) == ['0 of 3 cells', 'round 0 of 2', 'flat 0 of 1']
    move_slider(page, 0)
    assert counts(page) == ['3 cells', 'round 2', 'flat 1']
    np.testing.assert_array_equal(drawn(page), before)
    assert page.problems == []


def test_score_and_class_leave_out_cells_together(show):
    page = show(noise(60, 90), three())
    page.get_by_role('button', name='flat').click()
    assert counts(page) == ['2 of 3 cells', 'round 2', 'flat 1']
    move_slider(page, 0.7)
    assert counts(page) == ['1 of 3 cells', 'round 1 of 2', 'flat 0 of 1']
    page.get_by_role('button', name='flat').click()
    assert counts(page) == ['1 of 3 cells', 'round 1 of 2', 'flat 0 of 1']
    page.get_by_role('button', name='round').click()
    assert counts(page)[0] == '0 of 3 cells'


def test_keys_move_the_slider_that_has_them_and_not_the_image(show):
    page = show(noise(60, 90), three())
    zoom = page.locator('.zoom output').inner_text()
    page.locator('.score input').focus()
    for _ in range(3):
        page.keyboard.press('ArrowRight')
    page.keyboard.press('1')
    assert page.locator('.score b').inner_text() == '0.53'
    assert page.locator('.zoom output').inner_text() == zoom
    page.locator('.stage').click()
    page.keyboard.press('1')
    assert page.locator('.zoom output').inner_text() == '100 %'


@pytest.mark.parametrize('scores', [[1, 1, 1], [0.7, 0.7, 0.7], []])
def test_there_is_no_slider_where_scores_do_not_differ(show, scores):
    cells = three()[np.arange(len(scores))]
    page = show(noise(60, 90), cells_of(cells.masks, cells.labels, scores))
    assert not page.locator('.score').is_visible()
    assert page.locator('.count').inner_text() == f'{len(scores)} cells'
    assert page.problems == []


def test_the_least_score_is_where_the_slider_begins_and_stays_shown(show):
    """Scores of the slider's steps, which floating point does not hold exactly."""
    cells = three()
    page = show(noise(60, 90), cells_of(cells.masks, cells.labels, [0.29, 0.57, 0.58]))
    assert page.locator('.score b').inner_text() == '0.29'
    assert page.locator('.count').inner_text() == '3 cells'
    for score, left in ((0.57, 2), (0.58, 1), (0.59, 0)):
        move_slider(page, score)
        assert page.locator('.count').inner_text() == f'{left} of 3 cells'


def test_pointing_at_a_cell_tells_its_class_number_score_and_size(show):
    cells, tip = three(), ('round\ncell 1\nscore 0.90', 'round\ncell 2\nscore 0.50', 'flat\ncell 3\nscore 0.62')
    for mpp, unit in ((2.0, ', {:.1f} µm²'), (None, '')):
        page = show(noise(60, 90, mpp), cells)
        for (x, y), text, area in zip(((15, 15), (45, 15), (75, 45)), tip, cells.masks.areas.tolist(), strict=True):
            point(page, x, y, 90, 60)
            assert page.locator('.tip').inner_text() == f'{text}\n{area} px{unit.format(area * 4)}'
        point(page, 75, 15, 90, 60)
        assert not page.locator('.tip').is_visible()
        assert page.problems == []


def test_what_only_comparisons_have_is_left_out(show):
    page = show(noise(60, 90), three())
    for name in ('Errors only', 'slide'):
        assert not page.get_by_role('button', name=name).is_visible()
    assert 'onfused' not in page.locator('.viewer').inner_text()
    assert page.get_by_role('heading').all_inner_texts() == ['slide']


def test_the_page_says_what_it_shows(show):
    page = show(noise(60, 90, 0.2525), three(), thresholds=[0.5, 0.61])
    assert page.locator('header p').inner_text() == (
        '90 x 60 pixels of 0.2525 µm; 3 cells; scores of at least 0.5 (round), 0.61 (flat)')
    page = show(noise(60, 90), three(), thresholds=[0.5, 0.5])
    assert page.locator('header p').inner_text() == '90 x 60 pixels; 3 cells; scores of at least 0.5'


def test_the_scale_bar_is_as_long_as_it_says_at_any_zoom(show):
    page, seen = show(noise(600, 900, 0.5), three_on(600, 900)), set()
    for key in '0++++++++1':
        page.keyboard.press('Tab')
        page.locator('.viewer').press(key)
        percent = int(page.locator('.zoom output').inner_text().split()[0])
        length, unit = page.locator('.bar').inner_text().split()
        micrometres = float(length) * {'µm': 1, 'mm': 1000}[unit]
        width = page.locator('.bar').bounding_box()['width']
        assert width == pytest.approx(micrometres / 0.5 * percent / 100, rel=0.02)
        assert 50 < width <= 141
        seen.add(length)
    assert len(seen) > 3
    assert not show(noise(60, 90), three()).locator('.bar').is_visible()


def three_on(height, width):
    return cells_of(disks((height, width), (15, 15), (45, 15), (75, 45)), [0, 0, 1], [0.9, 0.5, 0.62])


def crowded(html):
    """A page that takes any number of cells for a crowd."""
    changed = re.sub(r'CROWD = \d+', 'CROWD = 0', html)
    assert changed != html
    return changed


def test_crowds_are_drawn_pixel_by_pixel_as_their_outlines_are(show):
    """Holes, parts apart, touching cells and cells at the image's edge, one pixel on one of the screen."""
    masks = np.random.default_rng(3).random((2, 60, 80)) < 0.6
    masks[1] &= ~masks[0]
    masks[0, [0, -1], :], masks[0, :, [0, -1]] = True, True
    masks[1] &= ~masks[0]
    page = show(grey(60, 80), cells_of(LocalMasks.from_bitmaps(masks), [0, 1], [0.5, 0.9]), change=crowded)
    page.get_by_role('button', name='1:1').click()
    found = drawn(page)
    left, top = np.argwhere(in_colour(found, 0).T).min(axis=0)
    panel = found[top:top + 60, left:left + 80]
    for label, mask in enumerate(masks):
        padded = np.pad(mask, 1)
        inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        np.testing.assert_array_equal(in_colour(panel, label), mask & ~inner)
    page.get_by_role('button', name='Outlines').click()
    assert not in_colour(drawn(page), 0).any()
    page.get_by_role('button', name='Fill').click()
    tinted = (drawn(page)[top:top + 60, left:left + 80] != 128).any(axis=2)
    np.testing.assert_array_equal(tinted, masks.any(axis=0))


def test_crowds_and_few_cells_are_drawn_alike(show):
    image, cells = grey(60, 90), three()
    pictures = []
    for change in (str, crowded):
        page = show(image, cells, change=change)
        page.get_by_role('button', name='Fill').click()
        page.keyboard.press('+')
        pictures.append(drawn(page))
    changed = [(picture != 128).any(axis=2) for picture in pictures]
    assert 0.97 < (changed[0] & changed[1]).sum() / changed[1].sum() <= 1


def test_each_cell_of_a_crowd_is_seen_however_small(show):
    side = 4000
    cells = specks(side, 100)
    page = show(grey(side, side), cells, change=crowded)
    assert int(page.locator('.zoom output').inner_text().split()[0]) < 25
    found = drawn(page)
    assert in_colour(found, 0).sum() + in_colour(found, 1).sum() == len(cells)


def test_a_large_image_is_shown_smaller_and_its_cells_stay_exact(show, monkeypatch):
    monkeypatch.setattr('cellseg_mm.visualization.prediction_page.LARGEST', 45)
    page = show(noise(60, 90, 1.0), three())
    assert page.locator('.caption').inner_text() == 'Shown at 45 x 30 of 90 x 60 pixels.'
    point(page, 75, 45, 90, 60)
    area = int(three().masks.areas[2])
    assert page.locator('.tip').inner_text() == f'flat\ncell 3\nscore 0.62\n{area} px, {area}.0 µm²'
    assert page.problems == []


def test_outlines_of_too_many_cells_are_coarser_and_none_is_left_out(show, monkeypatch, tmp_path):
    monkeypatch.setattr(viewer, '_MOST_OUTLINES', 1)
    side = 2000
    cells = cells_of(disks((side, side), *[(x, y) for x in range(50, side, 250) for y in range(50, side, 250)]),
                     np.arange(64) % 2, np.linspace(0.5, 0.99, 64))
    page = show(grey(side, side), cells)
    outlines = image_of(tmp_path / 'slide.html')['panes'][0]['outlines']
    assert len(outlines) == 64
    assert all(0 < len(outline[2]) <= 4 for outline in outlines)
    assert page.locator('.caption').inner_text() == 'Outlines of so many cells are exact to 16.9 pixels.'
    point(page, 50 + 250, 50 + 500, side, side)
    assert page.locator('.tip').inner_text().split('\n')[1::2] == ['cell 11', f'{cells.masks.areas[10]} px']
    assert page.problems == []


def test_a_picture_of_too_many_bytes_is_shown_smaller(monkeypatch, tmp_path):
    monkeypatch.setattr(viewer, '_MOST_WEBP', 0)
    write_viewer(tmp_path / 'a.html', noise(300, 400), three_on(300, 400), CLASSES)
    source = image_of(tmp_path / 'a.html')['source']
    monkeypatch.setattr(viewer, '_HEAVIEST', 20_000)
    write_viewer(tmp_path / 'a.html', noise(300, 400), three_on(300, 400), CLASSES)
    image = image_of(tmp_path / 'a.html')
    data = base64.b64decode(image['source'].partition(',')[2])
    assert len(data) <= 20_000 < len(source) * 3 / 4
    height, width = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape[:2]
    assert image['caption'] == f'Shown at {width} x {height} of 400 x 300 pixels.'
    assert width / height == pytest.approx(4 / 3, rel=0.02)


def test_tens_of_thousands_of_cells_are_drawn_fast(show, tmp_path):
    """Measured on 2 busy cores without a GPU: 233,000 cells of a slide in 0.1 to 0.4 s."""
    cells = specks(8000, 40)
    page = show(SimpleNamespace(height=8000, width=8000, mpp=0.25, overview=grey(1000, 1000).overview), cells)
    assert len(cells) > 39_000
    assert (tmp_path / 'slide.html').stat().st_size < 50 * len(cells)
    assert milliseconds_to_zoom(page) < 1000
    assert page.problems == []


def test_names_are_text_not_markup(show):
    page = show(noise(60, 90), three(), [HOSTILE, HOSTILE[::-1]], name='<b>&amp;"{{ 1 }}', thresholds=[0.5, 0.6])
    assert page.get_by_role('heading').inner_text() == '<b>&amp;"{{ 1 }}'
    assert HOSTILE in page.locator('header p').inner_text()
    assert page.locator('.classes button').first.inner_text() == f'{HOSTILE} 2'
    point(page, 15, 15, 90, 60)
    assert page.locator('.tip').inner_text().startswith(f'{HOSTILE}\n')
    assert page.problems == []


def entry(name, counts=(3, 4), note='', files=None, thumbnail=''):
    return SimpleNamespace(name=name, counts=counts and dict(zip(CLASSES, counts, strict=True)), note=note,
                           files=[f'{name}.csv', f'{name}.html'] if files is None else files, thumbnail=thumbnail)


@pytest.fixture
def index(chromium, tmp_path):
    """Write and open the page of a batch."""
    with ExitStack() as stack:

        def write_and_open(*entries):
            write_index(tmp_path / 'index.html', entries)
            return stack.enter_context(opened(chromium, tmp_path / 'index.html'))

        yield write_and_open


def rows(page, selector='table.sortable tbody tr'):
    return [row.locator('td').all_inner_texts() for row in page.locator(selector).all()]


def test_a_batch_is_listed_with_counts_links_and_failures(index, tmp_path):
    page = index(entry('a', (1200, 0), thumbnail=thumbnail(noise(500, 300))), entry('b', None, 'b.tif: is damaged'),
                 entry('c', (5, 7), files=['c.csv']))
    assert page.locator('header p').inner_text() == '3 images, 1 failed'
    assert rows(page) == [['a', '1,200', '1,200', '0'], ['c', '12', '5', '7']]
    assert rows(page, '#section-1 tbody tr') == [['b', 'b.tif: is damaged']]
    page.get_by_role('button', name='flat').click()
    assert [row[0] for row in rows(page)] == ['c', 'a']
    assert page.get_by_role('link', name='c', exact=True).count() == 0
    write_viewer(tmp_path / 'a.html', noise(60, 90), three(), CLASSES)
    assert page.locator('img').evaluate('image => image.decode().then(() => image.naturalWidth > 0)')
    page.get_by_role('link', name='a', exact=True).click()
    page.locator('.viewer[data-ready="0"]').wait_for()


def test_notes_of_images_are_told(index):
    page = index(entry('a', note='its pixel size is unknown'), entry('b'))
    assert [row[-1] for row in rows(page)] == ['its pixel size is unknown', '']


def test_what_is_said_of_all_images_is_said_once(index):
    page = index(entry('a', note='its pixel size is unknown'), entry('b', note='its pixel size is unknown'))
    text = page.inner_text('body')
    assert text.count('its pixel size is unknown') == 1
    assert 'Of all images: its pixel size is unknown.' in text


@pytest.mark.parametrize('name', [HOSTILE.replace('/', '|'), 'javascript:alert(1)', 'a?b#c %41 ü', '..'])
def test_names_in_a_batch_are_text_and_their_pages_files_beside_it(index, tmp_path, name):
    page = index(entry(name), entry(name, None, name))
    assert rows(page)[0][0] == name
    assert rows(page, '#section-1 tbody tr') == [[name, name]]
    address = page.locator('table.sortable a').evaluate('link => link.href')
    assert address == (tmp_path / f'{name}.html').as_uri()
    assert page.problems == []


def test_a_batch_may_be_empty_or_fail_whole(index):
    assert 'There is no image' in index().locator('main').inner_text()
    assert rows(index(entry('a', None, 'why')), 'tbody tr') == [['a', 'why']]


def test_a_thumbnail_is_small(tmp_path):
    assert len(thumbnail(noise(3000, 4000))) < 30_000
