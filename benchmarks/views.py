"""What views and ensembles gain and cost: python benchmarks/views.py CHECKPOINT... ROOT [--split val] [--images 6].

The first checkpoint looks at images in each set of views (test-time augmentation), and in mixed precision, then each of
the others in one view, and all of them as an ensemble. Printed are AP50 at the dense cap; bPQ and mPQ+ of the cells
that count, at the thresholds beside the checkpoints and at those of the best F1 on these very images; how many cells
count at the former; and seconds. ROOT is a prepared data set, of which the images most densely filled with cells are
taken: they tell most for the time.
"""
import argparse
import time
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
from measure import machine, register

MAX_DETS = 1000


def remembering(detector):
    """A class of detectors that answer for a picture which they know at once, and add up in `saved` what they saved."""
    class Remembering(detector):
        saved = 0.0

        def __init__(self, *args):
            super().__init__(*args)
            self._known = {}

        def __call__(self, pictures, factor):
            picture, = pictures
            key = picture.tobytes(), picture.shape, factor
            if key in self._known:
                Remembering.saved += self._known[key][1]
            else:
                started = time.perf_counter()
                self._known[key] = super().__call__(pictures, factor), time.perf_counter() - started
            return self._known[key][0]

    return Remembering


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoints', type=Path, nargs='+', metavar='CHECKPOINT')
    parser.add_argument('root', type=Path, metavar='ROOT')
    parser.add_argument('--split', default='val', choices=('train', 'val'))
    parser.add_argument('--images', type=int, default=6)
    args = parser.parse_args()
    register()
    from cellseg_mm.datasets.cell_dataset import read_cells
    from cellseg_mm.evaluation.coco_ap import average_precision, match_detections
    from cellseg_mm.evaluation.instances import pair_images, results_of
    from cellseg_mm.evaluation.operating_point import best_thresholds
    from cellseg_mm.evaluation.panoptic import segmentation_quality
    from cellseg_mm.inference import predictor as module
    from cellseg_mm.inference.views import VIEWS
    from cellseg_mm.io.image import read_image
    ground_truth = read_cells(args.root / f'annotations/{args.split}.json')
    cells = Counter(cell['image_id'] for cell in ground_truth['annotations'])
    images = sorted(ground_truth['images'], key=lambda image: -cells[image['id']] / (image['height'] * image['width']))
    images = images[:args.images]
    ids = {image['id'] for image in images}
    ground_truth = {**ground_truth, 'images': images, 'annotations': [
        cell for cell in ground_truth['annotations'] if cell['image_id'] in ids]}
    megapixels = sum(image['height'] * image['width'] for image in images) / 1e6
    print(f'{len(images)} images, {megapixels:.2f} megapixels, {sum(cells[key] for key in ids):,} cells; {machine()}')
    module.Detector = detectors = remembering(module.Detector)
    module.Detector = cache(detectors)

    def pairs(found):
        return pair_images(ground_truth, [
            result for key, some in found.items()
            for result in results_of(key, some.masks, (some.labels + 1).tolist(), some.scores.tolist())])

    def quality(predictor, found):
        confident = {key: predictor.confident(some) for key, some in found.items()}
        nothing_more = np.zeros(len(predictor.classes))
        metrics = segmentation_quality([pair.confident(nothing_more) for pair in pairs(confident)],
                                       predictor.classes)[0]
        return metrics['bPQ'], metrics['mPQ+'], sum(map(len, confident.values()))

    def measured(name, checkpoints, **settings):
        predictor = module.Predictor(*checkpoints, **settings)
        started, detectors.saved = time.perf_counter(), 0.0
        found = {image['id']: predictor.detect(args.root / image['file_name']) for image in images}
        seconds.append(time.perf_counter() - started + detectors.saved)
        known = pairs(found)
        ap50 = average_precision(known, predictor.classes, MAX_DETS)['AP50_dense']
        bpq, mpq, count = quality(predictor, found)
        predictor.thresholds = np.array(list(
            best_thresholds(match_detections(known, len(predictor.classes)), predictor.classes, MAX_DETS).values()))
        best_bpq, best_mpq, _ = quality(predictor, found)
        print(f'{name:40} {ap50:6.3f} {bpq:6.3f} {mpq:6.3f} {best_bpq:9.3f} {best_mpq:9.3f} {count:6,} '
              f'{seconds[-1] / megapixels:7.1f} {seconds[-1] / seconds[0]:6.1f}', flush=True)

    seconds, first = [], args.checkpoints[0]
    # Compiles, on a picture that is not looked at again.
    corner = read_image(args.root / images[0]['file_name'])[:64, :64]
    module.Predictor(first, views=['flips'])(corner)
    print(f'{"":40} {"AP50":>6} {"bPQ":>6} {"mPQ+":>6} {"best bPQ":>9} {"best mPQ+":>9} {"cells":>6} {"s/Mpx":>7} '
          f'{"time":>6}')
    measured(first.parent.name, [first])
    for name in VIEWS:
        measured(f'  {name}', [first], views=[name])
    measured('  mixed precision', [first], amp=True)
    for checkpoint in args.checkpoints[1:]:
        measured(checkpoint.parent.name, [checkpoint])
    if len(args.checkpoints) > 1:
        measured('all as an ensemble', args.checkpoints)


if __name__ == '__main__':
    main()
