"""Compare models: python tools/compare.py configs/cell_maskrcnn.py configs/cell_solov2.py --iterations 600."""
import argparse
from pathlib import Path

from cellseg_mm import cli


def parse_args():
    parser = argparse.ArgumentParser(
        description='Train what is not trained with one budget, predict one split, and write one table of quality, '
        'significance against the first row, and cost. Stopped or killed, the same command goes on from there; more '
        'items may be added to it.')
    parser.add_argument('items', nargs='+', metavar='ITEM', help='a config, CONFIG:CHECKPOINT, the work dir of a '
                        'training, COCO results (.json) or a folder of label maps; NAME=ITEM names its row')
    parser.add_argument('--out', default='work_dirs/comparison', help='folder for all that is written '
                        '(default: %(default)s)')
    parser.add_argument('--ground-truth', metavar='JSON',
                        help='the true cells in COCO form (default: the split that the first config validates on)')
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument('--iterations', type=int, metavar='N',
                        help='train every config for N iterations (default: as each config says)')
    budget.add_argument('--minutes', type=float, metavar='M',
                        help='train every config for as many iterations as take M minutes at the speed measured first')
    parser.add_argument('--validations', type=int, default=5, metavar='N', help='during a training with a budget, at '
                        'most; the best weights are compared (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='of every training (default: %(default)s)')
    parser.add_argument('--max-dets', type=int, metavar='N', help='the dense cap: detections for each image and class '
                        "(default: the first config's, or 1000)")
    parser.add_argument('--class-agnostic', action='store_true', help='take all cells for one class, as is done where '
                        'predictions of some row have no classes')
    parser.add_argument('--amp', action='store_true', help='train in mixed precision')
    parser.add_argument('--no-cost', dest='cost', action='store_false',
                        help='leave out parameters, GFLOPs, images/s and memory of predictions')
    parser.add_argument('--nproc-per-node', type=int, metavar='N', help='train and predict by N processes, as torchrun '
                        'does')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE',
                        help='settings to change in every config, such as data_root=data/mine; a work dir whose '
                        'predictions they would change predicts anew')
    args = parser.parse_args()
    for name in ('iterations', 'minutes', 'validations', 'max_dets', 'nproc_per_node'):
        if getattr(args, name) is not None and not 0 < getattr(args, name) < float('inf'):
            parser.error(f'--{name.replace("_", "-")} must be above 0')
    if not 0 <= args.seed < 2**31:
        parser.error('--seed must be 0 or above')
    return args


def main():
    args = parse_args()
    from cellseg_mm.engine.comparison import Terms, compare_models
    terms = Terms(args.iterations, args.minutes, args.validations, args.seed, args.max_dets, args.cfg_options,
                  args.amp, args.nproc_per_node, args.class_agnostic, args.cost)
    return compare_models(args.items, args.out, Path(__file__).resolve().parent, args.ground_truth, terms)


if __name__ == '__main__':
    cli.run(main)
