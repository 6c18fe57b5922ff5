import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco_mask

from cellseg_mm.datasets.annotations import describe
from cellseg_mm.structures.bitmaps import label_map_bitmaps, paint
from cellseg_mm.structures.rle import decode, encode_label_map

IDS = st.sampled_from([0, 0, 0, 1, 2, 255, 256, 70_000, 2**53 + 1, 2**63 - 1])
label_maps = arrays(np.int64, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=IDS)


@given(label_maps)
def test_painting_a_label_map_numbers_its_ids_in_order(labels):
    ids = np.unique(labels[labels != 0])
    painted, overlapping = paint(*label_map_bitmaps(labels), *labels.shape)
    assert len(overlapping) == len(ids)
    assert painted.dtype == np.int32
    np.testing.assert_array_equal(np.append(0, ids)[painted], labels)


@given(label_maps)
def test_painting_encoded_instances_gives_the_label_map_back(labels):
    painted, overlapping = paint(*decode(encode_label_map(labels), *labels.shape), *labels.shape)
    np.testing.assert_array_equal(np.append(0, np.unique(labels[labels != 0]))[painted], labels)
    assert not overlapping.any()


@given(arrays(bool, st.tuples(st.integers(0, 4), st.integers(1, 9), st.integers(1, 9))))
def test_painting_finds_all_masks_that_overlap(masks):
    masks = masks[masks.any(axis=(1, 2))]
    rles = [coco_mask.encode(np.asfortranarray(mask, np.uint8)) for mask in masks]
    painted, overlapping = paint(*decode(rles, *masks.shape[1:]), *masks.shape[1:])
    np.testing.assert_array_equal(painted > 0, masks.any(0))
    assert overlapping.tolist() == [bool((mask & (masks.sum(0) > 1)).any()) for mask in masks]


@given(label_maps)
def test_area_and_box_are_those_of_the_pixels(labels):
    cells = describe(encode_label_map(labels))
    for value, cell in zip(np.unique(labels[labels != 0]), cells, strict=True):
        rows, cols = np.nonzero(labels == value)
        assert cell['area'] == len(rows)
        assert cell['bbox'] == [cols.min(), rows.min(), np.ptp(cols) + 1, np.ptp(rows) + 1]
        np.testing.assert_array_equal(coco_mask.decode(cell['segmentation']), labels == value)


def test_a_crowded_image_is_encoded_without_a_canvas_for_each_cell():
    # 10,000 cells of 4 Mpx: a canvas each would take 40 GB and minutes.
    cell = np.pad(np.ones((18, 18), np.int64), 1)
    labels = np.kron(np.arange(1, 10_001).reshape(100, 100), cell)
    cells = describe(encode_label_map(labels))
    assert len(cells) == 10_000
    assert {cell['area'] for cell in cells} == {324.0}
    assert cells[101]['bbox'] == [21, 21, 18, 18]
