"""The quality of predictions on each look: python benchmarks/by_look.py RESULTS GROUND_TRUTH [--thresholds JSON].

RESULTS are COCO results, GROUND_TRUTH annotations whose images have the groups of benchmarks/dsb2018.py; parts of one
look are told together. A table of Markdown is printed: AP50 and AP of masks at the dense cap, and PQ, Dice and F1 at
the thresholds, or at those of the best F1 on all these images.
"""
import argparse
from pathlib import Path

FIGURES = {'AP50_dense': 'AP50', 'AP_dense': 'AP', 'bPQ': 'PQ', 'Dice': 'Dice', 'F1': 'F1'}
MAX_DETS = 1000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('results', type=Path)
    parser.add_argument('ground_truth', type=Path)
    parser.add_argument('--thresholds', type=Path)
    args = parser.parse_args()
    from cellseg_mm.datasets.cell_dataset import read_cells
    from cellseg_mm.evaluation.evaluate import evaluate
    from cellseg_mm.evaluation.instances import read_pairs
    from cellseg_mm.evaluation.operating_point import read_thresholds
    truth = read_cells(args.ground_truth)
    classes = [category['name'] for category in sorted(truth['categories'], key=lambda category: category['id'])]
    pairs = read_pairs(truth, args.results)
    thresholds = args.thresholds and read_thresholds(args.thresholds, classes)
    whole = evaluate(pairs, classes, MAX_DETS, thresholds)
    print('| look | images | nuclei | ' + ' | '.join(FIGURES.values()) + ' |')
    print('|---' * (len(FIGURES) + 3) + '|')
    looks = sorted({pair.group.split('_')[0] for pair in pairs})
    for look in [*looks, 'all']:
        found = whole if look == 'all' else evaluate(
            [pair for pair in pairs if pair.group.split('_')[0] == look], classes, MAX_DETS, whole['thresholds'],
            replicates=0)
        print(f'| {look} | {found["images"]} | {found["cells"]:,} | '
              + ' | '.join(f'{found["metrics"][name]:.3f}' for name in FIGURES) + ' |')
    low, high = whole['intervals']['AP50_dense']
    print(f'\nAP50 of all, 95% from resampling groups: {low:.3f} to {high:.3f}; thresholds {whole["thresholds"]}')


if __name__ == '__main__':
    main()
