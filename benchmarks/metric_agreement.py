"""Holds the metrics of a set of predictions against pycocotools, stardist and cellseg-metrics."""
import argparse
import json
from pathlib import Path

import numpy as np
from evaluation import by_coco, figures_of
from measure import register
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('results', type=Path, help='COCO results')
    parser.add_argument('ground_truth', type=Path, help='annotations in COCO form')
    args = parser.parse_args()
    register()
    from cellseg_mm.datasets.cell_dataset import read_cells
    from cellseg_mm.evaluation.coco_ap import average_precision
    from cellseg_mm.evaluation.evidence import gather
    from cellseg_mm.evaluation.instances import pair_images
    truth, results = read_cells(args.ground_truth), json.loads(args.results.read_text())
    classes = [category['name'] for category in sorted(truth['categories'], key=lambda category: category['id'])]
    pairs = pair_images(truth, results)
    print(f'{len(results):,} predictions, {len(truth["annotations"]):,} cells, {len(pairs)} images')
    for iou_type in ('segm', 'bbox'):
        ours = average_precision(pairs, classes, 1000, iou_type)
        theirs = figures_of(by_coco(truth, results, COCO, COCOeval, iou_type), classes)
        show(f'pycocotools, {len(theirs)} figures of AP ({iou_type})', [ours[name] for name in theirs], theirs.values())
    confident = gather(pairs, classes, 1000).confident
    for program, comparison in (('stardist', by_stardist), ('cellseg-metrics', by_cellseg_metrics)):
        ours, theirs = {}, {}
        for pair in confident:
            for name, (own, other) in comparison(pair, len(classes)).items():
                ours.setdefault(name, []).append(own)
                theirs.setdefault(name, []).append(other)
        for name in ours:
            show(f'{program}, {name} of {len(ours[name])} images', ours[name], theirs[name])


def show(what, ours, theirs):
    ours, theirs = np.array(list(ours), float), np.array(list(theirs), float)
    known = ~np.isnan(ours)
    apart = np.abs(ours - theirs)[known]
    undefined = f'; {np.sum(~known)} undefined here, {sorted(set(theirs[~known].tolist()))} there'
    print(f'{what:52} largest difference {apart.max():.1e}, {np.mean(apart < 1e-6):6.1%} within 1e-6'
          f'{"" if known.all() else undefined}')


def by_stardist(pair, num_classes):
    """(Ours, theirs) of one image by name."""
    from stardist.matching import matching

    from cellseg_mm.evaluation.panoptic import count_matches, panoptic_quality
    # It takes an IoU of exactly 0.5 for a match, which need not be the only one.
    other = matching(*label_maps(pair), thresh=0.5 + 1e-6)
    counts = count_matches([pair], num_classes)
    own = dict(zip(('DQ', 'SQ', 'PQ'), (values[0, -1] for values in panoptic_quality(*counts)), strict=True))
    return {'true positives': (counts.tp[0, -1], other.tp), 'false positives': (counts.fp[0, -1], other.fp),
            'false negatives': (counts.fn[0, -1], other.fn), 'DQ': (own['DQ'], other.f1),
            'SQ': (own['SQ'], other.mean_matched_score), 'PQ': (own['PQ'], other.panoptic_quality)}


def by_cellseg_metrics(pair, num_classes):
    """(Ours, theirs) of one image by name."""
    import cellseg_metrics

    from cellseg_mm.evaluation.panoptic import aggregated_jaccard, count_matches, dice, panoptic_quality
    true, predicted = label_maps(pair)
    dq, sq, pq = (values[0, -1] for values in panoptic_quality(*count_matches([pair], num_classes)))
    other = cellseg_metrics.panoptic_quality(true, predicted)
    pixels = cellseg_metrics.get_stats((true > 0).astype(np.uint8), (predicted > 0).astype(np.uint8))
    return {'DQ': (dq, other['dq']), 'SQ': (sq, other['sq']), 'PQ': (pq, other['pq']),
            'Dice': (dice(pair), cellseg_metrics.dice_coef(*pixels)),
            # It pairs a true cell by the largest intersection, we by the highest IoU.
            'AJI': (aggregated_jaccard(pair), cellseg_metrics.aggregated_jaccard_index(true, predicted))}


def label_maps(pair):
    return pair.truth.masks.to_label_map(), pair.predicted.masks.to_label_map()


if __name__ == '__main__':
    main()
