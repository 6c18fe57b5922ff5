"""Masks that share pixels, against the same asked of full canvases."""
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellseg_mm.structures.local_masks import LocalMasks
from cellseg_mm.structures.overlaps import areas_within, distinct, intersections, overlaps, suppress, without_overlap


def scene(seed, count, side=60):
    """Blocks of all sizes, some empty, on a canvas."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, side, side + 7), bool)
    for mask in masks:
        height, width = rng.integers(0, 2 + side // rng.choice([2, 8, 20]), 2)
        y, x = rng.integers(0, side, 2)
        mask[y:y + height, x:x + width] = rng.random(mask[y:y + height, x:x + width].shape) < rng.choice([0.5, 1])
    return masks


scenes = st.builds(scene, st.integers(0, 10**6), st.integers(0, 25))


@settings(deadline=None)
@given(scenes, scenes)
def test_intersections_are_those_of_full_canvases(first, second):
    i, j, area = intersections(LocalMasks.from_bitmaps(first), LocalMasks.from_bitmaps(second))
    expected = np.einsum('ihw,jhw->ij', first.astype(int), second.astype(int))
    np.testing.assert_array_equal(np.stack([i, j]), np.nonzero(expected))
    np.testing.assert_array_equal(area, expected[expected > 0])


@settings(deadline=None)
@given(scenes, st.integers(0, 10**6))
def test_each_pair_of_different_groups_comes_once(masks, seed):
    groups = np.random.default_rng(seed).integers(0, 3, len(masks))
    i, j, area = overlaps(LocalMasks.from_bitmaps(masks), groups)
    shared = np.einsum('ihw,jhw->ij', masks.astype(int), masks.astype(int)) * (groups[:, None] < groups)
    np.testing.assert_array_equal(np.stack([i, j]), np.nonzero(shared))
    np.testing.assert_array_equal(area, shared[shared > 0])


@settings(deadline=None)
@given(scenes, st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.integers(0, 10**6))
def test_suppression_is_the_greedy_one(masks, iou, seed):
    scores = np.random.default_rng(seed).integers(0, 5, len(masks)) / 5
    chosen = []
    for i in np.argsort(-scores, kind='stable').tolist():
        for j in chosen:
            shared, union = (masks[i] & masks[j]).sum(), (masks[i] | masks[j]).sum()
            if shared > iou * union:
                break
        else:
            chosen.append(i)
    found = suppress(LocalMasks.from_bitmaps(masks), scores, iou)
    assert np.flatnonzero(found).tolist() == sorted(chosen)


@settings(deadline=None)
@given(scenes, st.integers(0, 10**6))
def test_a_pixel_of_several_is_that_of_the_highest_score(masks, seed):
    scores = np.random.default_rng(seed).integers(0, 4, len(masks)) / 4
    kept = without_overlap(LocalMasks.from_bitmaps(masks), scores).to_ndarray().astype(bool)
    taken = np.zeros(masks.shape[1:], bool)
    for i in np.argsort(-scores, kind='stable'):
        np.testing.assert_array_equal(kept[i], masks[i] & ~taken)
        taken |= masks[i]


@settings(deadline=None)
@given(scenes, st.integers(0, 10**6))
def test_distinct_masks_are_those_chosen_with_the_pixels_they_take(masks, seed):
    scores = np.random.default_rng(seed).integers(0, 4, len(masks)) / 4
    found, kept = distinct(LocalMasks.from_bitmaps(masks), scores)
    chosen = np.flatnonzero(suppress(LocalMasks.from_bitmaps(masks), scores))
    expected = without_overlap(LocalMasks.from_bitmaps(masks[chosen]), scores[chosen]).to_ndarray()
    filled = expected.any((1, 2)) if len(expected) else np.zeros(0, bool)
    np.testing.assert_array_equal(kept, chosen[filled])
    np.testing.assert_array_equal(found.to_ndarray(), expected[filled])


@settings(deadline=None)
@given(scenes, st.integers(0, 10**6))
def test_areas_within_windows_are_those_of_full_canvases(masks, seed):
    rng = np.random.default_rng(seed)
    indices = rng.integers(0, len(masks), 12) if len(masks) else np.zeros(0, np.int64)
    windows = rng.integers(0, 40, (len(indices), 4))
    expected = [masks[i, y:y + h, x:x + w].sum() for i, (x, y, w, h) in zip(indices, windows, strict=True)]
    np.testing.assert_array_equal(areas_within(LocalMasks.from_bitmaps(masks), indices, windows), expected)


@pytest.mark.parametrize('size', [20, 2000])
def test_time_grows_with_masks_not_with_pairs(size):
    rng = np.random.default_rng(0)
    # Crowded, and with a few masks of any size among them, which must not slow down the rest.
    boxes = np.column_stack([rng.integers(0, 6000, (10_000, 2)), rng.integers(12, 28, (10_000, 2))])
    boxes[:5, 2:] = size
    masks = LocalMasks(np.ones((boxes[:, 2] * boxes[:, 3]).sum(), np.uint8), boxes, 8100, 8100)
    intersections(masks[:10], masks[:10])  # compiled
    start = time.process_time()
    i, _, _ = intersections(masks, masks)
    assert time.process_time() - start < 1
    assert len(i) > 12_000
