import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.structures import InstanceData

import cellseg_mm  # noqa: F401
from cellseg_mm.models.task_modules.local_max_iou_assigner import LocalMaxIoUAssigner

from mmdet.models.task_modules import AnchorGenerator, MaxIoUAssigner  # isort: skip (after cellseg_mm)
from mmdet.structures.bbox import HorizontalBoxes  # isort: skip (after cellseg_mm)

RPN = dict(pos_iou_thr=0.7, neg_iou_thr=0.3, min_pos_iou=0.3, match_low_quality=True, ignore_iof_thr=-1)


def anchors(height, width, scale=8):
    """The anchors of an FPN, as RPNHead makes them."""
    generator = AnchorGenerator(strides=[4, 8, 16, 32, 64], ratios=[0.5, 1.0, 2.0], scales=[scale])
    sizes = [(-(-height // stride), -(-width // stride)) for stride in (4, 8, 16, 32, 64)]
    return torch.cat(generator.grid_priors(sizes, device='cpu'))


def random_boxes(rng, count, side, size, whole):
    """Boxes x1, y1, x2, y2, some of them beyond the image, some empty."""
    corners = rng.uniform(-size, side, (count, 2))
    boxes = np.hstack([corners, corners + rng.uniform(0, size, (count, 2))]).astype(np.float32)
    return torch.from_numpy(boxes.round() if whole else boxes)


def assign(assigner, priors, gts, ignore=None):
    torch.manual_seed(0)  # perm_repeat_gt_cfg draws
    ignore = None if ignore is None else InstanceData(bboxes=ignore)
    labels = torch.arange(len(gts)) % 4
    return assigner.assign(InstanceData(priors=priors), InstanceData(bboxes=gts.clone(), labels=labels), ignore)


def assert_same(priors, gts, ignore=None, **options):
    ours = assign(LocalMaxIoUAssigner(**options), priors, gts, ignore)
    stock = assign(MaxIoUAssigner(**options), priors, gts, ignore)
    assert ours.num_gts == stock.num_gts
    for name in ('gt_inds', 'max_overlaps', 'labels'):
        torch.testing.assert_close(getattr(ours, name), getattr(stock, name), rtol=0, atol=0, equal_nan=True)
    return ours


options = st.fixed_dictionaries(dict(
    pos_iou_thr=st.sampled_from([0.0, 0.2, 0.5, 0.7, 1.0]),
    neg_iou_thr=st.sampled_from([0.0, 0.3, 0.5, 1.1, (0.1, 0.4), (0.0, 0.5), 0]),
    min_pos_iou=st.sampled_from([-1.0, 0.0, 0.1, 0.3, 0.5, 1.0]),
    gt_max_assign_all=st.booleans(),
    match_low_quality=st.booleans(),
    ignore_iof_thr=st.sampled_from([-1, -1, 0.5]),
    ignore_wrt_candidates=st.booleans(),
    gpu_assign_thr=st.sampled_from([-1, 3]),
    iou_calculator=st.sampled_from([dict(type='BboxOverlaps2D')] * 3 + [dict(type='BboxOverlaps2D', dtype='fp16')]),
    perm_repeat_gt_cfg=st.sampled_from([None, None, None, dict(iou_thr=0.7, perm_range=0.01)])))


@settings(max_examples=150, deadline=None)
@given(options=options, seed=st.integers(0, 2**32 - 1), cells=st.integers(0, 40), priors=st.integers(0, 300),
       side=st.sampled_from([3, 20, 100, 1000]), size=st.sampled_from([1, 5, 40, 300]), whole=st.booleans(),
       ignores=st.integers(0, 3))
def test_proposals_are_assigned_as_by_stock(options, seed, cells, priors, side, size, whole, ignores):
    rng = np.random.default_rng(seed)
    boxes = [random_boxes(rng, count, side, size, whole) for count in (priors, cells, ignores)]
    # Proposals contain the cells themselves while training.
    assert_same(torch.cat([boxes[1], boxes[0]]) if priors else boxes[0], *boxes[1:], **options)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), cells=st.integers(1, 60), height=st.integers(20, 200),
       width=st.integers(20, 200), scale=st.sampled_from([1, 4, 8]), size=st.sampled_from([3, 16, 64, 500]),
       whole=st.booleans(), min_pos_iou=st.sampled_from([0.0, 0.3]), gt_max_assign_all=st.booleans())
def test_anchors_are_assigned_as_by_stock(seed, cells, height, width, scale, size, whole, min_pos_iou,
                                          gt_max_assign_all):
    gts = random_boxes(np.random.default_rng(seed), cells, min(height, width), size, whole)
    assert_same(anchors(height, width, scale), gts,
                **{**RPN, 'min_pos_iou': min_pos_iou, 'gt_max_assign_all': gt_max_assign_all})


def test_of_equal_cells_the_first_is_assigned_and_low_quality_matches_take_the_last():
    gts = torch.tensor([[40., 40., 60., 60.], [0., 0., 20., 20.], [0., 0., 20., 20.], [1., 1., 19., 19.]])
    priors = torch.tensor([[0., 0., 20., 20.], [0., 0., 20., 19.], [41., 41., 60., 60.]])
    assert assert_same(priors, gts, **RPN).gt_inds.tolist() == [3, 4, 1]
    assert assert_same(priors, gts, **{**RPN, 'match_low_quality': False}).gt_inds.tolist() == [2, 2, 1]


def test_without_a_least_iou_a_cell_that_no_prior_touches_takes_them_all():
    gts = torch.tensor([[0., 0., 10., 10.], [500., 500., 510., 510.], [100., 0., 110., 10.]])
    priors = torch.tensor([[0., 0., 10., 10.], [100., 1., 110., 11.], [200., 200., 210., 210.]])
    assert assert_same(priors, gts, **{**RPN, 'min_pos_iou': 0.}).gt_inds.tolist() == [2, 3, 2]


def test_boxes_inside_out_or_not_finite_are_treated_as_by_stock():
    rng = np.random.default_rng(0)
    priors, gts = random_boxes(rng, 200, 50, 30, True), random_boxes(rng, 20, 50, 30, True)
    for values in ((float('nan'), ), (float('inf'), 1.), (-float('inf'), ), (3e38, -3e38), (1e9, -1e9), (1e12, )):
        for place, value in enumerate(values):
            for boxes in (priors, gts):
                broken = boxes.clone()
                broken[7, place] = value
                assert_same(broken if boxes is priors else priors, broken if boxes is gts else gts, **RPN)
    assert_same(priors[:, [2, 3, 0, 1]], gts, **RPN)
    assert_same(priors[:, [2, 1, 0, 3]], gts[:, [0, 3, 2, 1]], **RPN)
    assert_same(priors, gts[:, [2, 3, 0, 1]], **{**RPN, 'min_pos_iou': 0.})
    assert_same(priors, gts * 1e-30, **RPN)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_of_boxes_are_assigned_as_by_stock(dtype):
    rng = np.random.default_rng(0)
    priors, gts = random_boxes(rng, 200, 100, 30, False), random_boxes(rng, 20, 100, 30, False)
    assert_same(priors.to(dtype), gts.to(dtype), **RPN)


def test_box_objects_and_proposals_with_scores_are_understood():
    rng = np.random.default_rng(0)
    priors, gts = random_boxes(rng, 200, 100, 30, True), random_boxes(rng, 20, 100, 30, True)
    plain = assert_same(priors, gts, **RPN)
    for boxes in (HorizontalBoxes(priors), torch.hstack([priors, torch.rand(200, 1)])):
        assert torch.equal(assign(LocalMaxIoUAssigner(**RPN), boxes, HorizontalBoxes(gts)).gt_inds, plain.gt_inds)


def test_one_cell_over_the_whole_image_or_far_from_it_changes_nothing():
    gts = random_boxes(np.random.default_rng(0), 50, 150, 20, True)
    for box in ([0., 0., 200., 200.], [9e8, 9e8, 9.1e8, 9.1e8]):
        assert_same(anchors(200, 200), torch.cat([gts, torch.tensor([box])]), **RPN)


def test_1500_cells_and_800_000_anchors_take_less_than_200_mb():
    """Stock's matrix alone holds 4.9 GB, and its making several times that."""
    script = """if True:
        import resource, sys, time
        sys.path.insert(0, 'tests/models')
        from test_local_max_iou_assigner import *
        priors, gts = anchors(1800, 1800), random_boxes(np.random.default_rng(0), 1500, 1800, 40, True)
        assigner = LocalMaxIoUAssigner(**RPN)
        assign(assigner, priors[:10], gts[:10])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert (assign(assigner, priors, gts).gt_inds > 0).sum() > 1500
        print(len(priors), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, check=False, cwd=REPOSITORY,
                          env={**os.environ, 'PYTHONPATH': f'{REPOSITORY}:{REPOSITORY}/tests'})
    assert done.returncode == 0, done.stderr
    count, kilobytes = map(int, done.stdout.split())
    assert count > 800_000
    assert kilobytes < 200_000
