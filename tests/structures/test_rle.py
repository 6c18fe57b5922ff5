import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco_mask

from cellseg_mm.structures.rle import crop_of_rle, decode_counts, encode_label_map, encode_mask, encode_segmentation

IDS = st.sampled_from([0, 0, 0, 1, 2, 255, 256, 70_000, 2**53 + 1, 2**63 - 1])
label_maps = arrays(np.int64, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=IDS)
masks = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(0, 1))


def rle_of(mask):
    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {'size': rle['size'], 'counts': rle['counts'].decode()}


def encode_slowly(labels):
    return [coco_mask.encode(np.asfortranarray(labels == value, np.uint8)) for value in np.unique(labels[labels != 0])]


@given(label_maps)
def test_every_instance_is_encoded_as_pycocotools_encodes_its_mask(labels):
    assert encode_label_map(labels) == encode_slowly(labels)


@given(masks)
def test_masks_are_encoded_as_pycocotools_does(mask):
    assert encode_mask(mask.astype(bool)) == rle_of(mask)


@given(masks)
def test_decoded_counts_encode_to_the_same_text(mask):
    height, width = mask.shape
    rle = coco_mask.encode(np.asfortranarray(mask))
    counts = decode_counts(rle['counts'])
    assert coco_mask.frPyObjects([{'size': [height, width], 'counts': counts}], height, width)[0] == rle


def assert_crop_is(crop, mask):
    x, y, bitmap = crop
    pasted = np.zeros_like(mask, np.uint8)
    pasted[y:y + bitmap.shape[0], x:x + bitmap.shape[1]] = bitmap
    np.testing.assert_array_equal(pasted, mask)
    if mask.any():
        assert (x, y, bitmap.shape[1], bitmap.shape[0]) == tuple(coco_mask.toBbox(rle_of(mask)))


@given(masks)
def test_a_cropped_rle_is_what_pycocotools_decodes(mask):
    assert_crop_is(crop_of_rle(rle_of(mask)), mask)


def test_long_runs_in_every_form_of_counts_decode_alike():
    mask = np.zeros((3000, 2500), np.uint8)
    mask[:, 700:1900] = 1
    mask[2990:, 5:2400] = 1
    rle = rle_of(mask)
    flat = mask.ravel(order='F')
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.r_[0, edges, flat.size]).tolist()
    for counts in (rle['counts'], rle['counts'].encode(), runs):
        assert_crop_is(crop_of_rle({'size': rle['size'], 'counts': counts}), mask)


MASK = np.array([[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]], np.uint8)
RLE = coco_mask.encode(np.asfortranarray(MASK))


@pytest.mark.parametrize('segmentation', [
    [[1, 0, 3, 0, 3, 2, 1, 2]],
    [1, 0, 3, 0, 3, 2, 1, 2],
    [[1, 0, 2, 0, 2, 2, 1, 2], [2, 0, 3, 0, 3, 2, 2, 2]],
    {'size': [3, 4], 'counts': [3, 2, 1, 2, 4]},
    {'size': [3, 4], 'counts': RLE['counts'].decode()},
], ids=['polygon', 'bare polygon', 'two polygons', 'uncompressed RLE', 'compressed RLE'])
def test_each_form_of_segmentation_gives_the_same_mask(segmentation):
    np.testing.assert_array_equal(coco_mask.decode(encode_segmentation(segmentation, 3, 4)), MASK)


@pytest.mark.parametrize(('segmentation', 'problem'), [
    (None, 'no segmentation'),
    ([], 'no segmentation'),
    ({'counts': [12]}, 'no segmentation'),
    ([[1, 2, 3, 4]], 'three points'),
    ([[1, 2, 3, 4, 5, 6, 7]], 'three points'),
    ([[1, 2, 3, 4, 5, float('nan')]], 'three points'),
    ([['a', 'b', 'c', 'd', 'e', 'f']], 'three points'),
    ([[0, 0, 1e12, 0, 1e12, 1e12]], 'far outside'),
    ({'size': [4, 3], 'counts': [3, 2, 1, 2, 4]}, 'of size'),
    ({'size': 12, 'counts': [12]}, 'of size'),
    ({'size': [3, 4], 'counts': [3, 2, 1, 2]}, 'add up'),
    ({'size': [3, 4], 'counts': [13, -1]}, 'add up'),
    ({'size': [3, 4], 'counts': []}, 'add up'),
    ({'size': [3, 4], 'counts': [12.0]}, 'whole numbers'),
    ({'size': [3, 4], 'counts': 'oooo'}, 'cannot be decoded'),
    ({'size': [3, 4], 'counts': 'o' * 50 + '0'}, 'cannot be decoded'),
    ({'size': [3, 4], 'counts': '00000000'}, 'add up'),
    ({'size': [3, 4], 'counts': 'é!\x00'}, 'its RLE counts cannot be decoded'),
    ({'size': [3, 4], 'counts': 'é0'}, 'its RLE counts cannot be decoded'),
    ({'size': [3, 4], 'counts': '\ud800'}, 'its RLE counts cannot be decoded'),
    ({'size': [3, 4], 'counts': '!!'}, 'cannot be decoded'),
])
def test_a_broken_segmentation_says_what_is_wrong(segmentation, problem):
    with pytest.raises(ValueError, match=problem):
        encode_segmentation(segmentation, 3, 4)
