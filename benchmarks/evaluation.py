"""Time of the metrics on dense images: all of them, and average precision beside pycocotools and faster-coco-eval."""
import argparse
import contextlib
import io
import json
import time
from copy import deepcopy
from itertools import product

import numpy as np
from measure import machine, register
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scenes import scene, true_annotations

PREDICTIONS = 18_000
MAX_DETS = 1000
SIZES = '', '_small', '_medium', '_large'


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--repeats', type=int, default=5, help='runs, of which the fastest counts (%(default)s)')
    args = parser.parse_args()
    register()
    from faster_coco_eval import core

    from cellseg_mm.evaluation.coco_ap import average_precision
    from cellseg_mm.evaluation.evaluate import evaluate
    from cellseg_mm.evaluation.evidence import compare, gather
    from cellseg_mm.evaluation.instances import pair_images

    truth = ground_truth()
    results = predictions(truth, PREDICTIONS)
    others = predictions(truth, PREDICTIONS, seed=1)
    classes = [category['name'] for category in truth['categories']]
    print(f'{len(results):,} predictions, {len(truth["annotations"]):,} cells, {len(truth["images"])} images, '
          f'{len(classes)} classes; {machine()}')

    def ours():
        return average_precision(pair_images(truth, results), classes, MAX_DETS)

    steps = {
        'average precision at both caps, with sizes, here': ours,
        'the same by faster-coco-eval': lambda: by_coco(truth, results, core.COCO, core.COCOeval_faster),
        'the same by pycocotools': lambda: by_coco(truth, results, COCO, COCOeval),
        'all metrics without intervals': lambda: evaluate(pair_images(truth, results), classes, MAX_DETS, replicates=0),
        'all metrics with intervals': lambda: evaluate(pair_images(truth, results), classes, MAX_DETS),
        'paired comparison of two models': lambda: compare(
            *(gather(pair_images(truth, part), classes, MAX_DETS) for part in (results, others)))}
    found, seconds = {}, {}
    for name, step in steps.items():
        found[name] = step()  # and compiles, at the very first run
        seconds[name] = min(timed(step) for _ in range(args.repeats if 'pycocotools' not in name else 1))
        print(f'{name:50} {seconds[name]:8.2f} s', flush=True)
    own, faster, plain = list(seconds)[:3]
    print(f'pycocotools / here: {seconds[plain] / seconds[own]:.0f}; '
          f'faster-coco-eval / here: {seconds[faster] / seconds[own]:.1f}')
    figures = figures_of(found[plain], classes)
    farthest = max(abs(figures[name] - found[own][name]) for name in figures if not np.isnan(figures[name]))
    same = all(np.isnan(figures[name]) == np.isnan(found[own][name]) for name in figures)
    print(f'largest difference from pycocotools in {len(figures)} figures: {farthest:.1e}'
          f'{"" if same else "; not the same ones are undefined"}')


def timed(step):
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def ground_truth():
    """The 50 true images with 6,860 cells, or as many drawn ones where CELLSEG_REAL_DATA is not set."""
    from cellseg_mm.datasets.annotations import describe
    from cellseg_mm.structures.rle import encode_label_map
    if (path := true_annotations()) is not None:
        return json.loads(path.read_text())
    rng, images, annotations = np.random.default_rng(0), [], []
    for image in range(1, 51):
        _, labels = scene(140, 450, seed=image)
        images.append({'id': image, 'file_name': f'{image}.png', 'height': 450, 'width': 450})
        annotations += [{'image_id': image, 'category_id': int(rng.integers(1, 5)), **cell}
                        for cell in describe(encode_label_map(labels))]
    return {'images': images, 'annotations': [{**cell, 'id': i} for i, cell in enumerate(annotations, 1)],
            'categories': [{'id': i, 'name': f'class{i}'} for i in range(1, 5)]}


def predictions(truth, count, seed=0):
    """Each true cell several times, moved by up to 3 pixels, under a random score, one in ten under another class."""
    from cellseg_mm.evaluation.instances import results_of
    from cellseg_mm.structures.local_masks import LocalMasks
    rng, results, cells = np.random.default_rng(seed), [], {}
    for cell in truth['annotations']:
        cells.setdefault(cell['image_id'], []).append(cell)
    total, categories = len(truth['annotations']), [category['id'] for category in truth['categories']]
    for image in truth['images']:
        size = image['height'], image['width']
        of_image = cells.get(image['id'], [])
        chosen = np.arange(round(count * len(of_image) / total)) % max(len(of_image), 1)
        masks = LocalMasks.from_rles([cell['segmentation'] for cell in of_image], *size)[chosen]
        steps = rng.integers(-3, 4, (len(masks), 2))
        corners = masks.boxes[:, :2] + steps
        room = np.array(size[::-1]) - masks.boxes[:, 2:]
        boxes = np.hstack([corners.clip(0, room), masks.boxes[:, 2:]])
        labels = [cell['category_id'] for cell in of_image]
        labels = [labels[i] if rng.random() < 0.9 else int(rng.choice(categories)) for i in chosen]
        results += results_of(image['id'], LocalMasks(masks.pixels, boxes, *size), labels,
                              rng.random(len(masks)).tolist())
    return results


def by_coco(truth, results, api, evaluator, iou_type='segm'):
    """The precision that COCOeval finds at both caps for its four ranges of areas."""
    # COCOeval takes a match with the annotation of id 0 for no match, and writes into what it is given.
    truth = {**truth, 'annotations': [{**cell, 'id': i} for i, cell in enumerate(truth['annotations'], 1)]}
    results = deepcopy(results)
    if iou_type == 'segm':
        # Where results have boxes, pycocotools takes sizes from these, not from the masks.
        results = [{key: value for key, value in result.items() if key != 'bbox'} for result in results]
    with contextlib.redirect_stdout(io.StringIO()):
        reference = api()
        reference.dataset = truth
        reference.createIndex()
        evaluation = evaluator(reference, reference.loadRes(results), iou_type)
        evaluation.params.maxDets = [100, MAX_DETS]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval['precision']


def figures_of(precision, classes):
    """COCOeval's precision (T, 101, C, 4, 2) as the metrics of `average_precision`."""
    figures = {}
    for (size, suffix), (cap, name) in product(enumerate(SIZES), ((1, 'dense'), (0, 'cap100'))):
        at = precision[:, :, :, size, cap]
        for figure, part in (('AP50', at[:1]), ('AP75', at[5:6]), ('AP', at)):
            figures[f'{figure}_{name}{suffix}'] = part[part > -1].mean() if (part > -1).any() else np.nan
            for label, category in enumerate(classes if not suffix else ()):
                of_class = part[:, :, label]
                figures[f'{figure}_{name}/{category}'] = of_class.mean() if of_class.min() > -1 else np.nan
    return figures


if __name__ == '__main__':
    main()
