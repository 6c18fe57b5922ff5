"""LocalMasks beside MMDetection's own masks, in one run: python benchmarks/local_masks.py [--quick] [--real FILE]

Scenes of synthetic cells and, where --real or the environment variable CELLSEG_REAL_DATA names them, the true masks of
the 50 validation images. Both sides start from the same annotations or network outputs, and what they give is compared
before it is timed: loading bit for bit, the others pixel by pixel, where only pixels may differ whose value in stock
lies within 1e-4 of the threshold. Images are decoded already; what numba compiles is compiled before.

Times are medians of five after one call that is not counted. Memory is the peak of one call's resident memory over
what a fresh process holds before it, the image and the annotations included.
"""
import argparse
import json
import pickle
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scenes
from measure import free_memory, machine, median_seconds, peak_memory, register

SCENES = ((150, 500), (600, 1000), (1500, 1800))
ROWS = {'loading': 'loading pipeline', 'memory': 'its peak memory', 'paste': 'paste + RLE', 'crop': 'crop_and_resize'}
TARGETS = {name: dict(zip(ROWS, ratios, strict=True)) for name, ratios in (
    ('600 at 1000 px', (250, 50, 60, 100)), ('1,500 at 1800 px', (700, 200, 400, 300)))}
LOADERS = {'stock': dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
           'polygons': dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False),
           'ours': dict(type='LoadCellAnnotations', with_bbox=True, with_mask=True)}
SCALE, MASK_SIZE, THRESHOLD, PROPOSALS, MARGIN = (1333, 800), (28, 28), 0.5, 128, 1e-4
SETTINGS = f"""\
stock loading: LoadAnnotations(with_bbox=True, with_mask=True), which makes BitmapMasks; on both sides then
    Resize({SCALE}, keep_ratio=True), RandomFlip(prob=1), PackDetInputs()
stock paste + RLE: FCNMaskHead.predict_by_feat(rescale=True), 4 classes, 28 x 28, mask_thr_binary=0.5, which on CPUs
    pastes one mask at a time within its box, then encode_mask_results; ours: CellMaskHead, then to_rles()
crop_and_resize: {PROPOSALS} jittered true boxes to 28 x 28, roi_align(sampling_ratio=0, aligned=True), threshold 0.5
polygons: PolygonMasks by poly2mask=False, from outlines of the same cells; other masks, so times only"""


class Scene(NamedTuple):
    """An image with N cells: uint8 (H, W, 3), N RLEs with counts as text, int (N,) labels from 0 on."""

    image: object
    rles: list
    labels: object


def drawn_scene(cells, side):
    image, label_map = scenes.scene(cells, side)
    return Scene(image, scenes.rles_of(label_map), np.arange(cells) % scenes.CLASSES)


def loading(side, scene):
    """The loading pipeline as a function without arguments; `side` is a key of LOADERS."""
    from mmengine.dataset import Compose
    register()
    pipeline = Compose([LOADERS[side], dict(type='Resize', scale=SCALE, keep_ratio=True),
                        dict(type='RandomFlip', prob=1.0), dict(type='PackDetInputs')])
    rles = outlines(scene.rles) if side == 'polygons' else scene.rles
    item = scenes.dataset_item(scene.image, scene.rles, scene.labels)
    for instance, mask in zip(item['instances'], rles, strict=True):
        instance['mask'] = mask
    return lambda: pipeline(item.copy())


def warm_loading(side, scene):
    loading(side, drawn_scene(5, 100))()
    return loading(side, scene)


def outlines(rles):
    """Polygons [[x, y, x, y, ...], ...] around each mask."""
    import cv2
    polygons = []
    for x, y, bitmap in scenes.crops_of(rles):
        rings = cv2.findContours(bitmap, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE, offset=(x, y))[0]
        polygons.append([ring.ravel().tolist() for ring in rings if len(ring) > 2] or [[x, y, x + 1, y, x, y + 1]])
    return polygons


def compare_loading(scene):
    stock, ours = loading('stock', scene), loading('ours', scene)
    theirs, own = stock(), ours()
    assert theirs['inputs'].equal(own['inputs'])
    theirs, own = theirs['data_samples'].gt_instances, own['data_samples'].gt_instances
    assert theirs.bboxes.tensor.equal(own.bboxes.tensor)
    assert theirs.labels.equal(own.labels)
    assert len(theirs) == len(own) == len(scene.rles)
    for i in range(len(theirs)):
        assert np.array_equal(theirs.masks.masks[i], own.masks[i].to_ndarray()[0]), f'mask {i} differs'
    del theirs, own
    return {'polygons': loading('polygons', scene), 'stock': stock, 'ours': ours}


def predictions(scene):
    """What a network would give: float32 boxes (N, 4) in the resized image, logits (N, 4, 28, 28), scale factor."""
    import cv2
    import torch
    rng = np.random.default_rng(0)
    height, width = scene.image.shape[:2]
    factor = min(max(SCALE) / max(height, width), min(SCALE) / min(height, width))
    boxes = scenes.xyxy_boxes(scene.rles) + rng.uniform(-1, 1, (len(scene.rles), 4))
    logits = rng.normal(0, 0.5, (len(boxes), scenes.CLASSES, *MASK_SIZE))
    for i, (_, _, bitmap) in enumerate(scenes.crops_of(scene.rles)):
        logits[i, scene.labels[i]] += 8 * cv2.resize(bitmap, MASK_SIZE).astype(float) - 4
    return torch.tensor(boxes * factor).float(), torch.tensor(logits).float(), (factor, factor)


def compare_paste(scene):
    import torch
    from mmdet.evaluation.metrics.coco_metric import encode_mask_results
    from mmdet.models.roi_heads.mask_heads import FCNMaskHead
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
    from mmengine.config import ConfigDict
    from mmengine.structures import InstanceData

    from cellseg_mm.models.roi_heads.mask_heads import CellMaskHead
    boxes, logits, factor = predictions(scene)
    labels, shape = torch.tensor(scene.labels), scene.image.shape[:2]
    config = dict(num_convs=0, num_classes=logits.shape[1], in_channels=4, conv_out_channels=4)

    def run(head):
        return head.predict_by_feat(
            [logits], [InstanceData(bboxes=boxes.clone(), labels=labels)],
            [dict(scale_factor=factor, ori_shape=shape)], ConfigDict(mask_thr_binary=THRESHOLD), rescale=True)[0].masks

    stock, ours = FCNMaskHead(**config), CellMaskHead(**config)

    def run_stock():
        return encode_mask_results(run(stock).numpy())

    def run_ours():
        return run(ours).to_rles()

    theirs, own, masks = run_stock(), run_ours(), run(ours)
    differing = [i for i in range(len(theirs)) if theirs[i] != own[i]]
    for i in differing:
        values = torch.zeros(shape)
        pasted, window = _do_paste_mask(logits[i, labels[i]].sigmoid()[None, None],
                                        boxes[i:i + 1] / boxes.new_tensor(factor * 2), *shape)
        values[window] = pasted[0]
        wrong = (values >= THRESHOLD).numpy() != masks[i].to_ndarray()[0].astype(bool)
        assert (values[wrong] - THRESHOLD).abs().max() < MARGIN, f'mask {i} differs'
    return {'stock': run_stock, 'ours': run_ours}, len(differing)


def compare_crop(scene):
    from mmdet.structures.mask import BitmapMasks, PolygonMasks
    from pycocotools import mask as coco_mask

    from cellseg_mm.structures.local_masks import LocalMasks
    rng = np.random.default_rng(0)
    height, width = scene.image.shape[:2]
    inds = rng.integers(len(scene.rles), size=PROPOSALS)
    boxes = (scenes.xyxy_boxes(scene.rles)[inds] + rng.normal(0, 3, (PROPOSALS, 4))).astype(np.float32)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    boxes = boxes.clip(0, np.float32([width, height] * 2))
    masks = {'polygons': PolygonMasks([[np.array(ring) for ring in rings] for rings in outlines(scene.rles)],
                                      height, width),
             'stock': BitmapMasks([coco_mask.decode(rle) for rle in scene.rles], height, width),
             'ours': LocalMasks.from_rles(scene.rles, height, width)}
    runs = {side: lambda masks=masks, **options: masks.crop_and_resize(boxes, MASK_SIZE, inds, **options).to_ndarray()
            for side, masks in masks.items()}
    values = runs['stock'](binarize=False)
    wrong = runs['ours']() != (values >= THRESHOLD)
    assert np.abs(values[wrong] - THRESHOLD).max(initial=0) < MARGIN
    return runs, int(wrong.sum())


def compare(scenes_of_case):
    """Seconds or bytes, {row: {side: number}}, summed over scenes; memory is that of the scene with most pixels."""
    figures = defaultdict(lambda: defaultdict(float))
    differing = defaultdict(int)
    for scene in scenes_of_case:
        runs = compare_loading(scene)
        while runs:
            side, function = runs.popitem()
            figures['loading'][side] += median_seconds(function)
        for row, function in (('paste', compare_paste), ('crop', compare_crop)):
            runs, count = function(scene)
            differing[row] += count
            while runs:
                side, function = runs.popitem()
                figures[row][side] += median_seconds(function)
    largest = max(scenes_of_case, key=lambda scene: len(scene.rles) * scene.image.size)
    for side in LOADERS:
        figures['memory'][side] = peak_memory(warm_loading, side, largest)
    print(f'    equal, but for {differing["paste"]} pasted masks and {differing["crop"]} cropped pixels '
          f"where stock's value is within {MARGIN} of its threshold", flush=True)
    return {row: dict(figures[row]) for row in ROWS}


def report(name, figures):
    missed = 0
    for row, label in ROWS.items():
        unit, factor = ('MB', 1e-6) if row == 'memory' else ('ms', 1e3)
        values = figures[row]
        ratio, target = values['stock'] / values['ours'], TARGETS.get(name, {}).get(row)
        verdict = '' if target is None else f'{target:7} {"met" if ratio >= target else "missed"}'
        missed += verdict.endswith('missed')
        polygons = f'{values["polygons"] * factor:12,.1f}' if 'polygons' in values else f'{"":12}'
        print(f'{name:20}{label:18}{unit:4}{values["stock"] * factor:12,.1f}{polygons}'
              f'{values["ours"] * factor:10,.2f}{ratio:9,.0f}{verdict}', flush=True)
    return missed


def report_pickle(scene):
    """Size of 1,500 cells as they go to a worker, and the time there and back."""
    from cellseg_mm.structures.local_masks import LocalMasks
    masks = LocalMasks.from_rles(scene.rles, *scene.image.shape[:2])
    data = pickle.dumps(masks)
    seconds = median_seconds(lambda: pickle.loads(pickle.dumps(masks)))
    assert pickle.loads(data).to_rles() == masks.to_rles()
    met = len(data) < 2e6 and seconds < 5e-3
    print(f'{len(masks)} cells pickled: {len(data) / 1e6:.2f} MB (target 2), there and back {seconds * 1e3:.2f} ms '
          f'(target 5): {"met" if met else "missed"}')
    return {'bytes': len(data), 'seconds': seconds}, not met


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--quick', action='store_true', help='leave out the largest scene and the true images')
    parser.add_argument('--real', type=Path, metavar='FILE', default=scenes.true_annotations(),
                        help='COCO ground truth with RLE masks')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the figures here')
    args = parser.parse_args()
    register()
    print(f'{machine()}\n{SETTINGS}\n')
    print(f'{"":42}{"stock":>12}{"polygons":>12}{"ours":>10}{"ratio":>9}{"target":>7}')
    results, missed = {'machine': machine(), 'cases': {}}, 0
    cases = {f'{cells:,} at {side} px': lambda size=(cells, side): [drawn_scene(*size)] for cells, side in SCENES}
    if args.real:
        truth = json.loads(args.real.read_text())
        cases[f'{len(truth["images"])} true images'] = lambda: [
            Scene(*scenes.true_scene(truth, image['id'])) for image in truth['images']]
    for name, make in list(cases.items())[:2 if args.quick else None]:
        case = make()
        # Canvases twice, as a list and as an array, and a third of that as a reserve.
        needed = 2.7 * max(len(scene.rles) * scene.image[..., 0].size for scene in case)
        if needed > free_memory():
            print(f'{name}: left out, stock needs {needed / 1e9:.0f} GB, {free_memory() / 1e9:.0f} GB are free')
            continue
        results['cases'][name] = compare(case)
        missed += report(name, results['cases'][name])
    results['pickle'], pickle_missed = report_pickle(drawn_scene(*SCENES[-1]))
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))
    return int(missed + pickle_missed > 0)


if __name__ == '__main__':
    sys.exit(main())
