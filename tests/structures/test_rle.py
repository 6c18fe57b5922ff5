import json
import os
import random
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco_mask

from cellseg_mm.structures.rle import (
    decode,
    encode,
    encode_label_map,
    encode_segmentation,
    measure,
)

IDS = st.sampled_from([0, 0, 0, 1, 2, 255, 256, 70_000, 2**53 + 1, 2**63 - 1])
label_maps = arrays(np.int64, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=IDS)
masks = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(0, 1))
REAL_CELLS = Path(os.environ.get('CELLSEG_REAL_DATA', ''), 'hw3/val_annotations.json')


@st.composite
def stacks(draw):
    """Masks of one canvas, uint8 (N, H, W): empty, full, dense, sparse, and in parts."""
    size = draw(st.tuples(st.integers(1, 30), st.integers(1, 30)) | st.sampled_from([(1, 70), (70, 1), (90, 40)]))
    shares = draw(st.lists(st.sampled_from([0, 0.02, 0.5, 0.98, 1]), max_size=5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return np.array([rng.random(size) < share for share in shares], np.uint8).reshape(-1, *size)


def rles_of(stack):
    return [coco_mask.encode(np.asfortranarray(mask, np.uint8)) for mask in stack]


def text_rle_of(mask):
    rle, = rles_of([mask])
    return {'size': rle['size'], 'counts': rle['counts'].decode()}


def run_lengths(mask):
    """Lengths of the runs down the columns, the first of background."""
    runs = [(value, len(list(run))) for value, run in groupby(mask.ravel(order='F').tolist())]
    return [0] * bool(runs[0][0]) + [length for _, length in runs]


def canvases(pixels, boxes, height, width):
    stack, start = np.zeros((len(boxes), height, width), np.uint8), 0
    for canvas, (x, y, w, h) in zip(stack, boxes.tolist(), strict=True):
        canvas[y:y + h, x:x + w] = pixels[start:start + w * h].reshape(h, w)
        start += w * h
    assert start == len(pixels)
    return stack


def tight_boxes(stack):
    boxes = []
    for mask in stack:
        rows, columns = np.nonzero(mask)
        boxes.append([columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1] if len(rows) else [0] * 4)
    return boxes


@given(stacks())
def test_decoding_gives_the_masks_within_tight_boxes(stack):
    pixels, boxes = decode(rles_of(stack), *stack.shape[1:])
    assert (pixels.dtype, boxes.dtype, boxes.shape) == (np.uint8, np.int32, (len(stack), 4))
    np.testing.assert_array_equal(canvases(pixels, boxes, *stack.shape[1:]), stack)
    assert boxes.tolist() == tight_boxes(stack)


@given(stacks())
def test_text_bytes_and_lists_of_run_lengths_decode_alike(stack):
    expected = decode(rles_of(stack), *stack.shape[1:])
    size = list(stack.shape[1:])
    for rle_of in (text_rle_of, lambda mask: {'size': size, 'counts': run_lengths(mask)}):
        for result, array in zip(decode([rle_of(mask) for mask in stack], *size), expected, strict=True):
            np.testing.assert_array_equal(result, array)


@given(stacks(), st.sampled_from(['tight', 'whole']))
def test_encoding_gives_the_bytes_of_pycocotools(stack, boxes):
    count, height, width = stack.shape
    boxes = np.array(tight_boxes(stack) if boxes == 'tight' else [[0, 0, width, height]] * count).reshape(-1, 4)
    pixels = [mask[y:y + h, x:x + w].ravel() for mask, (x, y, w, h) in zip(stack, boxes, strict=True)]
    assert encode(np.concatenate([np.zeros(0, np.uint8), *pixels]), boxes, height, width) == rles_of(stack)


@given(stacks())
def test_areas_and_boxes_are_measured_without_decoding(stack):
    boxes, areas, problems = measure(rles_of(stack), *stack.shape[1:])
    assert boxes.tolist() == tight_boxes(stack)
    assert areas.tolist() == stack.sum((1, 2)).tolist()
    assert not problems


@given(masks, st.integers(0, 2**32 - 1), st.integers(0, 3))
def test_runs_of_length_zero_change_nothing(mask, seed, at_the_end):
    rng, padded = np.random.default_rng(seed), []
    for count in run_lengths(mask):
        # A run in two parts, with none of the other kind between them.
        part = int(rng.integers(0, count + 1))
        padded += [part, 0, count - part]
    padded += [0] * at_the_end
    # Compressed by pycocotools, which leaves such runs in.
    for rle in ({'size': list(mask.shape), 'counts': padded},
                coco_mask.frPyObjects({'size': list(mask.shape), 'counts': padded}, *mask.shape)):
        decoded = decode([rle], *mask.shape)
        np.testing.assert_array_equal(canvases(*decoded, *mask.shape)[0], mask)
        assert decoded[1].tolist() == tight_boxes([mask])
        assert encode(*decoded, *mask.shape) == rles_of([mask])


def test_a_run_over_the_foot_of_a_column_is_one():
    rle = {'size': [3, 4], 'counts': [4, 5, 3]}
    pixels, boxes = decode([rle], 3, 4)
    assert boxes.tolist() == [[1, 0, 2, 3]]
    assert pixels.tolist() == [0, 1, 1, 1, 1, 1]
    assert encode(pixels, boxes, 3, 4) == [coco_mask.frPyObjects(rle, 3, 4)]


@pytest.mark.parametrize(('height', 'width'), [(50_000, 90_000), (150_000, 200_000), (2**31 - 1, 2**28)])
def test_long_runs_of_large_images_fit(height, width):
    # Their pixels need 33, 35 and 59 bits.
    counts = [height * width - 1000, 2, 998]
    pixels, boxes = decode([{'size': [height, width], 'counts': counts}], height, width)
    assert boxes.tolist() == [[width - 1, height - 1000, 1, 2]]
    rle, = encode(pixels, boxes, height, width)
    assert [array.tolist() for array in decode([rle], height, width)] == [pixels.tolist(), boxes.tolist()]


def test_70000_instances_of_one_pixel_each_are_kept_apart():
    places = np.random.default_rng(0).permutation(300 * 400)[:70_000]
    boxes = np.stack([places % 400, places // 400, np.ones_like(places), np.ones_like(places)], axis=1)
    rles = encode(np.ones(70_000, np.uint8), boxes, 300, 400)
    assert len({rle['counts'] for rle in rles}) == 70_000
    pixels, decoded = decode(rles, 300, 400)
    np.testing.assert_array_equal(decoded, boxes)
    assert len(pixels) == pixels.sum() == 70_000
    for i in (0, 255, 256, 65_535, 65_536, 69_999):
        assert np.flatnonzero(coco_mask.decode(rles[i])) == places[i]


@pytest.mark.skipif('CELLSEG_REAL_DATA' not in os.environ, reason='CELLSEG_REAL_DATA is not set')
def test_real_cells_come_back_byte_for_byte():
    data = json.loads(REAL_CELLS.read_text())
    assert len(data['annotations']) == 6860
    for image in data['images']:
        size = image['height'], image['width']
        rles = [cell['segmentation'] for cell in data['annotations'] if cell['image_id'] == image['id']]
        pixels, boxes = decode(rles, *size)
        assert [{**rle, 'counts': rle['counts'].decode()} for rle in encode(pixels, boxes, *size)] == rles
        as_bytes = [{**rle, 'counts': rle['counts'].encode()} for rle in rles]
        assert boxes.tolist() == coco_mask.toBbox(as_bytes).tolist()
        assert measure(rles, *size)[1].tolist() == [int(coco_mask.area(rle)) for rle in as_bytes]
        start = np.cumsum([0, *(w * h for _, _, w, h in boxes.tolist())])
        for i in range(0, len(rles), 20):
            x, y, w, h = boxes[i]
            bitmap = coco_mask.decode(as_bytes[i])[y:y + h, x:x + w]
            np.testing.assert_array_equal(pixels[start[i]:start[i + 1]], bitmap.ravel())


BROKEN = [
    ([13, -1], 'counts do not add up to 3 x 4 pixels'),
    ([5, 2], 'counts do not add up to 3 x 4 pixels'),
    ([2**70], 'counts do not add up to 3 x 4 pixels'),
    ([], 'counts do not add up to 3 x 4 pixels'),
    ('', 'counts do not add up to 3 x 4 pixels'),
    ('00000000', 'counts do not add up to 3 x 4 pixels'),
    ('p0', 'counts cannot be decoded'),
    ('M<', 'counts do not add up to 3 x 4 pixels'),
    (b'o', 'counts cannot be decoded'),
    ('oooo', 'counts cannot be decoded'),
    ('o' * 50 + '0', 'counts cannot be decoded'),
    ('é0', 'counts cannot be decoded'),
    ('<\x00', 'counts cannot be decoded'),
    ('\ud800', 'counts cannot be decoded'),
    ([12.0], 'counts are neither text nor a list of whole numbers'),
    (['12'], 'counts are neither text nor a list of whole numbers'),
    (None, 'counts are neither text nor a list of whole numbers'),
    (12, 'counts are neither text nor a list of whole numbers'),
]


@pytest.mark.parametrize(('counts', 'problem'), BROKEN)
def test_the_first_broken_rle_is_named(counts, problem):
    sound = {'size': [3, 4], 'counts': [3, 2, 7]}
    broken = {'size': [3, 4], 'counts': counts}
    with pytest.raises(ValueError, match=f'^RLE 2: its {problem}$'):
        decode([sound, sound, broken, sound, broken], 3, 4)
    boxes, areas, problems = measure([sound, broken, sound], 3, 4)
    assert problems == {1: problem}
    assert boxes.tolist() == [[1, 0, 1, 2], [0, 0, 0, 0], [1, 0, 1, 2]]
    assert areas.tolist() == [2, 0, 2]


def test_a_size_may_be_a_tuple():
    assert decode([{'size': (3, 4), 'counts': [3, 2, 7]}], 3, 4)[1].tolist() == [[1, 0, 1, 2]]


@pytest.mark.parametrize('size', [[4, 3], (4, 3), [3], 12, None, '34', [3, 4, 1]])
def test_another_size_than_the_image_is_refused(size):
    with pytest.raises(ValueError, match=r'^RLE 0: its size is .*, that of the image \[3, 4\]$'):
        decode([{'size': size, 'counts': '<'}], 3, 4)


def read_slowly(counts):
    """Run lengths of compressed counts; None where they are of no such form."""
    lengths, number, shift = [], 0, 0
    for byte in counts:
        bits = byte - 48
        if not 0 <= bits < 64 or shift == 60:
            return None
        number |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            number -= (bits & 16) << shift - 4
            lengths.append(number + (lengths[-2] if len(lengths) > 2 else 0))
            number = shift = 0
    return None if shift else lengths


@given(st.binary(max_size=30) | st.text(''.join(map(chr, range(48, 112))), max_size=12).map(str.encode))
def test_any_bytes_are_refused_or_decoded_right(counts):
    lengths = read_slowly(counts)
    rle = {'size': [5, 8], 'counts': counts}
    if lengths is not None and min(lengths, default=0) >= 0 and sum(lengths) == 40:
        expected = np.repeat(np.arange(len(lengths)) % 2, lengths).reshape(5, 8, order='F')
        np.testing.assert_array_equal(canvases(*decode([rle], 5, 8), 5, 8)[0], expected)
    else:
        with pytest.raises(ValueError, match='RLE 0: its counts'):
            decode([rle], 5, 8)


def test_damaged_counts_never_give_a_mask_that_does_not_fit():
    rng = random.Random(0)
    mask = np.random.default_rng(0).random((30, 40)) < 0.3
    counts = text_rle_of(mask)['counts'].encode()
    decoded = 0
    for _ in range(3000):
        damaged = bytearray(counts)
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(len(damaged))
            damaged[place:place + rng.randint(0, 2)] = bytes(rng.choices(range(46, 114), k=rng.randint(0, 2)))
        lengths = read_slowly(damaged)
        try:
            result = decode([{'size': [30, 40], 'counts': bytes(damaged)}], 30, 40)
        except ValueError:
            assert lengths is None or min(lengths, default=0) < 0 or sum(lengths) != 1200
        else:
            decoded += 1
            expected = np.repeat(np.arange(len(lengths)) % 2, lengths).reshape(30, 40, order='F')
            np.testing.assert_array_equal(canvases(*result, 30, 40)[0], expected)
    assert decoded


@pytest.mark.parametrize(('boxes', 'problem'), [
    ([[2, 0, 3, 3]], 'outside the image of 3 x 4'), ([[0, 1, 3, 3]], 'outside'), ([[-1, 0, 3, 3]], 'outside'),
    ([[2**31 - 1, 0, 3, 3]], 'outside'), ([[0, 0, 2, 2]], '9 pixels for boxes of 4'), ([], '9 pixels for boxes of 0')])
def test_bitmaps_that_do_not_fit_are_not_encoded(boxes, problem):
    with pytest.raises(ValueError, match=problem):
        encode(np.ones(9, np.uint8), boxes, 3, 4)


@given(label_maps)
def test_every_instance_is_encoded_as_pycocotools_encodes_its_mask(labels):
    assert encode_label_map(labels) == rles_of([labels == value for value in np.unique(labels[labels != 0])])


MASK = np.array([[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]], np.uint8)


@pytest.mark.parametrize('segmentation', [
    [[1, 0, 3, 0, 3, 2, 1, 2]],
    [1, 0, 3, 0, 3, 2, 1, 2],
    [[1, 0, 2, 0, 2, 2, 1, 2], [2, 0, 3, 0, 3, 2, 2, 2]],
    {'size': [3, 4], 'counts': [3, 2, 1, 2, 4]},
    {'size': [3, 4], 'counts': [3, 1, 0, 1, 1, 2, 4, 0]},
    text_rle_of(MASK),
], ids=['polygon', 'bare polygon', 'two polygons', 'uncompressed RLE', 'RLE with empty runs', 'compressed RLE'])
def test_each_form_of_segmentation_gives_the_same_rle(segmentation):
    assert encode_segmentation(segmentation, 3, 4) == rles_of([MASK])[0]


@pytest.mark.parametrize(('segmentation', 'problem'), [
    (None, 'no segmentation'),
    ([], 'no segmentation'),
    ({'counts': [12]}, 'no segmentation'),
    ([[1, 2, 3, 4]], 'three points'),
    ([[1, 2, 3, 4, 5, 6, 7]], 'three points'),
    ([[1, 2, 3, 4, 5, float('nan')]], 'three points'),
    ([['a', 'b', 'c', 'd', 'e', 'f']], 'three points'),
    ([[0, 0, 1e12, 0, 1e12, 1e12]], 'far outside'),
    ({'size': [4, 3], 'counts': [3, 2, 1, 2, 4]}, 'its RLE size is'),
    *(({'size': [3, 4], 'counts': counts}, f'its RLE {problem}') for counts, problem in BROKEN),
])
def test_a_broken_segmentation_says_what_is_wrong(segmentation, problem):
    with pytest.raises(ValueError, match=problem):
        encode_segmentation(segmentation, 3, 4)
