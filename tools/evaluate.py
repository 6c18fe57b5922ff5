"""Evaluate predictions: python tools/evaluate.py RESULTS.json --ground-truth data/cells/annotations/val.json."""
import argparse

from cellseg_mm import cli


def parse_args():
    parser = argparse.ArgumentParser(
        description='Evaluate COCO results of any program: average precision, panoptic quality, AJI, Dice and F1 with '
        '95% intervals. With a second file, say whether the two differ by more than chance.')
    parser.add_argument('results', metavar='RESULTS', help='COCO results, as tools/test.py writes them')
    parser.add_argument('second', nargs='?', metavar='SECOND', help='those of another model for the same images')
    parser.add_argument('--ground-truth', required=True, metavar='JSON', help='annotations in COCO form')
    parser.add_argument('--max-dets', type=int, default=1000,
                        help='the dense cap: detections for each image and class (default: %(default)s)')
    parser.add_argument('--thresholds', metavar='JSON', help='best_epoch_<n>.thresholds.json of the first model '
                        '(default: the scores of the best F1 on these images, which flatter)')
    parser.add_argument('--second-thresholds', metavar='JSON', help='those of the second')
    parser.add_argument('--out', metavar='JSON', help='write the evaluation, or the comparison, there')
    args = parser.parse_args()
    if args.max_dets < 1:
        parser.error('--max-dets must be above 0')
    if bool(args.second_thresholds) != bool(args.second and args.thresholds):
        parser.error('a comparison takes both --thresholds and --second-thresholds, or neither: chosen on these images '
                     'for one model alone, they would flatter it')
    return args


def main():
    args = parse_args()
    from pathlib import Path

    from cellseg_mm.datasets.cell_dataset import read_cells
    from cellseg_mm.evaluation.evaluate import evaluate, format_comparison, format_evaluation, write_evaluation
    from cellseg_mm.evaluation.evidence import compare, gather
    from cellseg_mm.evaluation.instances import read_pairs
    from cellseg_mm.evaluation.operating_point import read_thresholds
    truth = read_cells(args.ground_truth)
    classes = [category['name'] for category in sorted(truth['categories'], key=lambda category: category['id'])]
    first, second = (path and read_thresholds(path, classes) for path in (args.thresholds, args.second_thresholds))
    pairs = read_pairs(truth, args.results)
    if args.second:
        others = read_pairs(truth, args.second)
        found = compare(gather(pairs, classes, args.max_dets, first), gather(others, classes, args.max_dets, second))
        print(format_comparison(found, len({pair.group for pair in pairs})))
    else:
        found = evaluate(pairs, classes, args.max_dets, first, args.thresholds and Path(args.thresholds).name)
        print(format_evaluation(found))
    if args.out:
        write_evaluation(args.out, found)


if __name__ == '__main__':
    cli.run(main)
