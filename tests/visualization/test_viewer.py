import base64
from contextlib import ExitStack
from dataclasses import replace

import cv2
import numpy as np
import pytest
from browser import milliseconds_to_zoom, opened
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cellseg_mm.evaluation.instances import ImagePair, Instances
from cellseg_mm.structures.local_masks import LocalMasks
from cellseg_mm.visualization.page import Section, render_page
from cellseg_mm.visualization.viewer import Pane, ViewerImage, compared, outlines, viewer

CLASSES = ['round', 'flat']
ELEMENTS = "document.querySelector('.cell-viewer').shadowRoot.querySelectorAll('*').length"
ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'


def instances(masks, labels=None, scores=None):
    count = len(masks)
    return Instances(masks, np.zeros(count, np.int64) if labels is None else np.array(labels),
                     np.ones(count) if scores is None else np.array(scores), masks.boxes.astype(float),
                     np.zeros(count, bool), np.zeros(count, bool))


def disks(shape, *places, radius=8):
    return LocalMasks.from_bitmaps(np.array(
        [cv2.circle(np.zeros(shape, np.uint8), place, radius, 1, -1) for place in places]).reshape(-1, *shape))


def pair_of(truth, predicted):
    return ImagePair(1, 'image.tif', 'a', None, truth, predicted)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def filled(outline, shape):
    """How often the loops of an outline wind around each pixel, walked edge by edge."""
    winding = np.zeros(shape, int)
    for x, y, letters in zip(outline[::3], outline[1::3], outline[2::3], strict=True):
        start, direction = (x, y), 0
        turns = [ALPHABET.index(letter) >> 2 * place & 3 for letter in letters for place in range(3)]
        assert len(letters) == turns.index(3) // 3 + 1
        for turn in turns[:turns.index(3) + 1]:
            if direction in (1, 3):
                winding[y - (direction == 3), x:] += 1 if direction == 3 else -1
            x += (1, 0, -1, 0)[direction]
            y += (0, 1, 0, -1)[direction]
            direction = (direction + (0, 1, 3, 0)[turn]) % 4
        assert (x, y) == start
    return winding


@given(arrays(bool, st.tuples(st.integers(0, 3), st.integers(1, 9), st.integers(1, 9))))
def test_an_outline_holds_exactly_the_pixels_of_its_mask(canvases):
    """Even-odd and nonzero alike, as no pixel is wound around twice: holes, parts, corners that touch."""
    found = outlines(LocalMasks.from_bitmaps(canvases))
    assert len(found) == len(canvases)
    for outline, canvas in zip(found, canvases, strict=True):
        np.testing.assert_array_equal(filled(outline, canvas.shape), canvas)


def test_a_hole_and_a_part_apart_are_loops_of_their_own():
    ring = np.zeros((9, 12), bool)
    ring[1:6, 1:6], ring[3, 3], ring[7:, 9:] = True, False, True
    outline, = outlines(LocalMasks.from_bitmaps(ring[None]))
    assert len(outline) == 9
    np.testing.assert_array_equal(filled(outline, ring.shape), ring)


def test_a_cell_of_20_px_takes_less_than_60_bytes():
    shape = 200, 200
    places = [(x, y) for x in range(20, 180, 25) for y in range(20, 180, 25)]
    masks = disks(shape, *places, radius=10)
    cells = instances(masks, scores=np.linspace(0.101, 0.999, len(masks)))
    image = ViewerImage('', '', np.zeros((*shape, 3), np.uint8), [Pane('', cells, ['right'] * len(masks))])
    none = ViewerImage('', '', image.bgr, [Pane('', cells[:0], [])])
    assert (len(viewer([image], CLASSES)) - len(viewer([none], CLASSES))) / len(masks) < 60


def test_cells_are_found_missed_spurious_or_confused():
    shape = 60, 90
    truth = instances(disks(shape, (15, 15), (45, 15), (75, 15)), [0, 1, 1])
    predicted = instances(disks(shape, (75, 45), (46, 15), (15, 16)), [0, 0, 0], [0.5, 0.6, 0.7])
    first, second = compared(pair_of(truth, predicted))
    assert first.statuses == ['found', 'confused', 'missed']
    assert second.statuses == ['spurious', 'confused', 'right']
    assert second.partners.tolist() == [-1, 1, 0]


def test_no_cells_compare():
    none = instances(LocalMasks.empty(5, 5))
    assert [pane.statuses for pane in compared(pair_of(none, none))] == [[], []]


@pytest.fixture
def show(chromium, tmp_path):
    """Open a page of viewers, (images, classes) each, and wait for the first image of each."""
    with ExitStack() as stack:

        def open_viewers(*viewers):
            path = tmp_path / 'page.html'
            path.write_text(render_page('Cells', '', [Section('Cells', viewer(*one)) for one in viewers]), 'utf-8')
            page = stack.enter_context(opened(chromium, path))
            for place in range(len(viewers)):
                page.locator('.viewer').nth(place).and_(page.locator('[data-ready="0"]')).wait_for()
            return page

        yield open_viewers


def sample(title='one', caption='', seed=0, mpp=None):
    """Three true cells and three predictions: one found, one confused, one missed and one spurious."""
    shape = 60, 90
    truth = instances(disks(shape, (15, 15), (45, 15), (75, 15)), [0, 1, 1])
    predicted = instances(disks(shape, (75, 45), (45, 15), (15, 15)), [0, 0, 0], [0.5, 0.62, 0.7])
    return ViewerImage(title, caption, noise(*shape, seed), compared(pair_of(truth, predicted)), mpp)


def drawn(page, place=0):
    """What the panes of a viewer show, each as text."""
    return page.locator('.viewer').nth(place).evaluate("""async viewer => {
      for (let i = 0; i < 2; i++) await new Promise(requestAnimationFrame);
      return [...viewer.querySelectorAll('canvas:first-child')].map(canvas => canvas.toDataURL());
    }""")


def counts(page, place=0):
    return page.locator('.viewer').nth(place).locator('.count').all_inner_texts()


def point(page, pane, x, y, width, height):
    """Move the pointer to (x, y) of an image of that size that fits its pane."""
    box = page.locator('.stage').nth(pane).bounding_box()
    scale = min((box['width'] - 2) / width, (box['height'] - 2) / height)
    page.mouse.move(box['x'] + box['width'] / 2 + scale * (x - width / 2),
                    box['y'] + box['height'] / 2 + scale * (y - height / 2))


def rest(page):
    """Wait until the page has not scrolled for so long that the wheel zooms."""
    page.evaluate("""() => new Promise(done => {
      let timer = setTimeout(done, 320);
      addEventListener('scroll', () => {
        clearTimeout(timer);
        timer = setTimeout(done, 320);
      });
    })""")


def test_both_panes_zoom_and_move_together(show):
    page = show(([sample()], CLASSES))
    first = drawn(page)
    assert first[0] != first[1]
    page.get_by_role('button', name='Outlines').click()
    start = drawn(page)
    assert start[0] == start[1]
    point(page, 1, 60, 20, 90, 60)
    rest(page)
    page.mouse.wheel(0, -300)
    seen = [start[0]]
    for act in (lambda: None, lambda: page.mouse.dblclick(400, 400), lambda: page.keyboard.press('-'),
                lambda: (page.mouse.down(), page.mouse.move(450, 380), page.mouse.up()),
                page.get_by_role('button', name='1:1').click):
        act()
        left, right = drawn(page)
        assert left == right
        assert left not in seen
        seen.append(left)
    assert page.locator('output').inner_text() == '100 %'
    page.get_by_role('button', name='Fit').click()
    assert drawn(page) == start
    assert page.problems == []


def test_an_image_too_large_for_browsers_is_shown_smaller_in_its_own_coordinates(show, monkeypatch):
    smooth = replace(sample(), bgr=np.tile(np.arange(90, dtype=np.uint8)[:, None], (60, 1, 3)))
    before = drawn(show(([smooth], CLASSES)))
    monkeypatch.setattr('cellseg_mm.visualization.viewer.LARGEST', 45)
    page = show(([smooth], CLASSES))
    assert page.evaluate("""async () => {
      const image = new Image();
      image.src = JSON.parse(document.querySelectorAll('.cell-viewer > script')[1].textContent).source;
      await image.decode();
      return [image.naturalWidth, image.naturalHeight];
    }""") == [45, 30]
    for small, large in zip(drawn(page), before, strict=True):
        assert np.abs(pixels(small) - pixels(large)).mean() < 4


def pixels(url):
    return cv2.imdecode(np.frombuffer(base64.b64decode(url.partition(',')[2]), np.uint8), cv2.IMREAD_COLOR).astype(int)


def test_a_wheel_that_cannot_zoom_out_any_more_scrolls_the_page(show):
    page = show(([sample()], CLASSES), ([sample()], CLASSES))
    before = drawn(page)
    point(page, 0, 45, 30, 90, 60)
    page.mouse.wheel(0, 200)
    # The pages' policy does not let Playwright wait for an expression.
    scrolled = any(page.evaluate('scrollY') or page.wait_for_timeout(50) for _ in range(100))
    assert scrolled
    assert drawn(page) == before


def test_switches_leave_out_cells(show):
    page = show(([sample()], CLASSES))
    before = drawn(page)
    assert counts(page) == ['3 cells', '3 cells']
    assert page.locator('.legend').all_inner_texts() == [
        'found 1\nmissed 1\nconfused 1', 'right 1\nspurious 1\nconfused 1']
    flat = page.get_by_role('button', name='flat')
    assert flat.inner_text() == 'flat 2 / 0'
    flat.click()
    assert counts(page) == ['1 of 3 cells', '3 cells']
    after = drawn(page)
    assert after[0] != before[0]
    assert after[1] == before[1]
    page.get_by_role('button', name='Errors only').click()
    assert counts(page) == ['0 of 3 cells', '2 of 3 cells']
    flat.click()
    assert counts(page) == ['2 of 3 cells', '2 of 3 cells']
    page.get_by_role('button', name='Errors only').click()
    assert drawn(page) == before
    page.get_by_role('button', name='Fill').click()
    assert drawn(page)[0] != before[0]
    assert page.problems == []


def test_pointing_at_a_cell_tells_about_it(show):
    page = show(([sample(mpp=2.0)], CLASSES))
    area = int(disks((60, 90), (15, 15)).areas[0])
    size = f'{area} px, {4 * area}.0 µm²'
    tip = page.locator('.tip')
    for pane, x, y, text in ((0, 15, 15, f'round\nfound\npredicted with score 0.70\n{size}'),
                             (0, 45, 15, f'flat\nconfused with round\npredicted with score 0.62\n{size}'),
                             (1, 45, 15, f'round\nconfused with flat\nscore 0.62\n{size}'),
                             (0, 75, 15, f'flat\nmissed\n{size}'), (1, 75, 45, f'round\nspurious\nscore 0.50\n{size}')):
        point(page, pane, x, y, 90, 60)
        assert tip.inner_text() == text
    point(page, 1, 75, 15, 90, 60)
    assert not tip.is_visible()
    assert page.problems == []


def test_each_pixel_of_a_cell_with_a_hole_and_a_part_apart_is_its_own(show):
    mask = np.random.default_rng(2).random((6, 8)) < 0.6
    cells = instances(LocalMasks.from_bitmaps(mask[None]))
    page = show(([ViewerImage('one', '', noise(6, 8), compared(pair_of(cells, cells)))], CLASSES))
    hit = np.zeros_like(mask)
    for y, x in np.ndindex(mask.shape):
        point(page, 0, x + 0.5, y + 0.5, 8, 6)
        hit[y, x] = page.locator('.tip').is_visible()
    np.testing.assert_array_equal(hit, mask)


def test_arrows_and_thumbnails_choose_the_image_of_one_viewer_only(show):
    images = [sample('one', 'the first'), replace(sample('two', 'the second', 1), panes=sample().panes[::-1])]
    page = show((images, CLASSES), (images, CLASSES))
    captions, other = page.locator('.caption'), drawn(page, 1)
    assert captions.all_inner_texts() == ['the first', 'the first']
    page.locator('.stage').first.click()
    for key, caption in (('ArrowRight', 'the second'), ('ArrowRight', 'the second'), ('ArrowLeft', 'the first')):
        page.keyboard.press(key)
        page.locator('.viewer').first.get_by_text(caption).wait_for()
    page.locator('.viewer').first.get_by_role('button', name='two').click()
    page.locator('.viewer').first.get_by_text('the second').wait_for()
    page.locator('.viewer').first.get_by_role('button', name='Errors only').click()
    assert captions.all_inner_texts() == ['the second', 'the first']
    assert counts(page, 1) == ['3 cells', '3 cells']
    assert drawn(page, 1) == other
    assert page.problems == []


def test_names_are_text_not_markup(show):
    name = '</script><b>&amp;"\'{{ 1 }}<!--'
    page = show(([sample(name, name)], [name, name[::-1]]))
    assert page.locator('.caption').inner_text() == name
    assert page.locator('.images button').inner_text() == name
    assert page.locator('.images button').get_attribute('title') == name
    assert page.locator('.classes button').first.inner_text() == f'{name} 1 / 3'
    point(page, 0, 15, 15, 90, 60)
    assert page.locator('.tip').inner_text().startswith(f'{name}\n')
    assert page.problems == []


def test_an_image_without_cells_is_shown(show):
    none = instances(LocalMasks.empty(30, 40))
    page = show(([ViewerImage('empty', '', noise(30, 40), compared(pair_of(none, none)))], CLASSES))
    assert counts(page) == ['0 cells', '0 cells']
    left, right = drawn(page)
    assert left == right
    page.get_by_role('button', name='Errors only').click()
    assert page.problems == []


def test_a_thousand_cells_in_each_pane_are_drawn_fast_and_cost_no_elements(show):
    """Measured on 2 busy cores without a GPU: 60 ms for a picture of both panes."""
    size, disk = 1800, disks((23, 23), (11, 11), radius=11)
    corners = [(x, y) for x in range(0, size - 23, 55) for y in range(0, size - 23, 55)][:1000]
    masks = LocalMasks(np.tile(disk.pixels, 1000), np.array([(*corner, 23, 23) for corner in corners]), size, size)
    truth = instances(masks, np.arange(1000) % 2)
    predicted = instances(masks, np.arange(1000) % 3 % 2, np.full(1000, 0.9))
    page = show(([ViewerImage('many', '', np.full((size, size, 3), 200, np.uint8), compared(pair_of(truth, predicted))),
                  sample()], CLASSES))
    assert counts(page) == ['1,000 cells', '1,000 cells']
    many = page.evaluate(ELEMENTS)
    assert milliseconds_to_zoom(page) < 1000
    page.get_by_role('button', name='one').click()
    page.locator('.viewer[data-ready="1"]').wait_for()
    assert page.evaluate(ELEMENTS) == many
    assert page.problems == []
