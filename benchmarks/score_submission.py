"""Scores a submission by plain pycocotools, to check the project's figures by independent code."""
import argparse
import contextlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('submission', type=Path, help='test-results.json, or the zip that holds it')
    parser.add_argument('ground_truth', type=Path, help='the ground truth of the test images in COCO form')
    parser.add_argument('--max-dets', type=int, default=1000, help='the dense cap, for each image and class')
    args = parser.parse_args()
    ground_truth, results = json.loads(args.ground_truth.read_text()), read_results(args.submission)
    names = {category['id']: category['name'] for category in ground_truth['categories']}
    print(f'{len(results)} detections, {len(ground_truth["annotations"])} cells, {len(ground_truth["images"])} images')
    precision = evaluate(ground_truth, results, sorted({100, args.max_dets}))
    for index, cap in enumerate(sorted({100, args.max_dets})):
        print(f'\nat most {cap} detections for each image and class\n{"":16}    AP50    AP75      AP')
        rows = np.stack([figures(precision[:, :, k, index]) for k in range(len(names))])
        has_cells = ~np.isnan(rows[:, 0])
        mean = rows[has_cells].mean(0) if has_cells.any() else np.full(3, np.nan)
        for name, row in [*((names[k], row) for k, row in zip(sorted(names), rows, strict=True)), ('mean', mean)]:
            print(f'{name:16}' + ''.join(f'{value:8.4f}' for value in row))


def read_results(path):
    if path.suffix != '.zip':
        return json.loads(path.read_text())
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(*archive.namelist()))


def evaluate(ground_truth, results, caps):
    """COCOeval's precision: float (10 IoU thresholds, 101 recalls, classes, caps), -1 without ground truth."""
    # COCOeval takes a match with the annotation of id 0 for no match.
    ground_truth['annotations'] = [{**a, 'id': i} for i, a in enumerate(ground_truth['annotations'], 1)]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = ground_truth
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes(results) if results else COCO(), 'segm')
        evaluator.params.maxDets, evaluator.params.areaRng = caps, [[0, 1e10]]
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator.eval['precision'][:, :, :, 0]


def figures(precision):
    """AP50, AP75 and AP of one class from precision (10 IoU thresholds, 101 recalls); NaN without ground truth."""
    if (precision < 0).all():
        return np.full(3, np.nan)
    return np.array([precision[0].mean(), precision[5].mean(), precision.mean()])


if __name__ == '__main__':
    main()
