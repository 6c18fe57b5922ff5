"""Tiles against whole images: python benchmarks/tiling.py CHECKPOINT ROOT [--split val] [--tiles 1024 900].

Of the cells that a model finds in a whole image, the share that it finds in tiles too, with the same class and a mask
IoU of 0.9 or more (and of 0.5, which tells other outlines from other cells): of those that are sure enough to count,
and of all detections; and AP50 both ways.
ROOT is a prepared data set with images of several tiles, such as CoNSeP's of 1000 x 1000 px. The model's limits to how
many cells it finds in a view are lifted to 20,000, and detections below a score of 0.1 are left out, of which there
would be more. Two-stage models are still held to as many proposals.
"""
import argparse
import itertools
import time
from pathlib import Path

import numpy as np
from measure import machine, register

LIMIT, SCORE = 20_000, 0.1


def twins(whole, tiled):
    """How many cells of a whole image have one of their class in its tiles, at an IoU of 0.9 and of 0.5: int (2,)."""
    from cellseg_mm.structures.overlaps import intersections
    i, j, shared = intersections(whole.masks, tiled.masks)
    ious = shared / (whole.masks.areas[i] + tiled.masks.areas[j] - shared) * (whole.labels[i] == tiled.labels[j])
    return np.array([len(np.unique(i[ious >= least])) for least in (0.9, 0.5)])


def ap50(ground_truth, found, classes):
    from cellseg_mm.evaluation.coco_ap import average_precision
    from cellseg_mm.evaluation.instances import pair_images, results_of
    results = [result for image_id, cells in found.items()
               for result in results_of(image_id, cells.masks, (cells.labels + 1).tolist(), cells.scores.tolist())]
    return average_precision(pair_images(ground_truth, results), classes, 1000)['AP50_dense']


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', type=Path)
    parser.add_argument('root', type=Path)
    parser.add_argument('--split', default='val', choices=('train', 'val', 'test'))
    parser.add_argument('--tiles', type=int, nargs='+', default=[1024, 900], help="sides, in the network's pixels")
    parser.add_argument('--overlaps', type=int, nargs='+', default=[192])
    parser.add_argument('--images', type=int, default=4, help='the largest of them')
    args = parser.parse_args()
    register()
    print(machine())
    from cellseg_mm.datasets.cell_dataset import read_cells
    from cellseg_mm.inference import detector
    from cellseg_mm.inference.predictor import Predictor
    build = detector.MODELS.build

    def without_limits(model):
        for part in (model.test_cfg, model.test_cfg.get('rpn'), model.test_cfg.get('rcnn')):
            lifted = dict(max_per_img=LIMIT, nms_pre=LIMIT, score_thr=SCORE)
            part = part or {}
            part.update({key: value for key, value in lifted.items() if key in part})
        return build(model)

    detector.MODELS = type('Unlimited', (), {'build': staticmethod(without_limits)})
    ground_truth = read_cells(args.root / f'annotations/{args.split}.json')
    images = sorted(ground_truth['images'], key=lambda image: -image['height'] * image['width'])[:args.images]
    ids = {image['id'] for image in images}
    ground_truth = {**ground_truth, 'images': images, 'annotations': [
        cell for cell in ground_truth['annotations'] if cell['image_id'] in ids]}

    def predicted(**settings):
        predictor, started = Predictor(args.checkpoint, **settings), time.perf_counter()
        found = {image['id']: predictor.detect(args.root / image['file_name']) for image in images}
        seconds = time.perf_counter() - started
        return (found, {key: predictor.confident(cells) for key, cells in found.items()},
                ap50(ground_truth, found, predictor.classes), seconds)

    def share(whole, tiled):
        count = sum(map(len, whole.values()))
        strict, loose = 100 * sum(twins(whole[key], tiled[key]) for key in whole) / count
        return f'{strict:.2f}% ({loose:.2f}%) of {count:,}'

    whole, counting, score, seconds = predicted(tile=100_000)
    print(f'{len(images)} images whole: AP50 {score:.4f}, {seconds:.0f} s', flush=True)
    for tile, overlap in itertools.product(args.tiles, args.overlaps):
        tiled, counted, other, seconds = predicted(tile=tile, overlap=overlap)
        print(f'tiles of {tile}, overlap {overlap}: found again {share(counting, counted)} cells that count, '
              f'{share(whole, tiled)} detections; AP50 {other:.4f} ({other - score:+.4f}), {seconds:.0f} s', flush=True)


if __name__ == '__main__':
    main()
