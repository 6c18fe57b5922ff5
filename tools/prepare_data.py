"""Check a data set and write its annotations: ROOT/annotations/{train,val,test}.json and one pair for each fold.

ROOT holds train/<id>/image.tif with <class>.tif label maps beside it, and test_release/<id>.tif if there is a test
split. Other layouts: --images and --labels, or --coco. docs/your-data.md explains them all.
"""
import argparse
import sys
from pathlib import Path

from cellseg_mm import cli
from cellseg_mm.io.pixel_size import plausible


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('root', type=Path, metavar='ROOT', help='folder of the data set')
    parser.add_argument('--images', type=Path, metavar='DIR', help='images, in place of ROOT/train')
    parser.add_argument('--labels', type=Path, metavar='DIR', help='label maps of one class, named as the images')
    parser.add_argument('--coco', type=Path, metavar='JSON', help='COCO file with the cells')
    parser.add_argument('--classes', type=lambda text: [name.strip() for name in text.split(',')], metavar='A,B',
                        help='classes to keep, in order (default: all); with --labels, the name of the one class')
    parser.add_argument('--groups', type=Path, metavar='CSV',
                        help='columns id,group: images of one group stay together (default: by appearance)')
    parser.add_argument('--mpp', type=float, help='micrometres per pixel, where the images do not record it')
    parser.add_argument('--val-fraction', type=float, default=0.15, help='share of images to validate on (%(default)s)')
    parser.add_argument('--folds', type=int, default=5, help='folds of cross-validation, 0 for none (%(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the split (%(default)s)')
    parser.add_argument('--workers', type=int, help='processes (default: one a core)')
    args = parser.parse_args()
    if args.labels and (args.coco or not args.images):
        parser.error('--labels goes with --images, and not with --coco')
    if args.images and not (args.labels or args.coco):
        parser.error('--images goes with --labels or --coco')
    if args.mpp is not None and not plausible(args.mpp):
        parser.error('--mpp is in micrometres per pixel, such as 0.25')
    for name, valid, wanted in (('val_fraction', 0 < args.val_fraction < 1, 'between 0 and 1'),
                                ('folds', args.folds == 0 or args.folds > 1, '0 or above 1'),
                                ('seed', args.seed >= 0, '0 or above'),
                                ('workers', args.workers is None or args.workers > 0, 'above 0'),
                                ('classes', args.classes is None or all(args.classes), 'names between commas')):
        if not valid:
            parser.error(f'--{name.replace("_", "-")} must be {wanted}')
    return args


def main():
    args = parse_args()
    from rich.console import Console

    from cellseg_mm.datasets.prepare import AuditError, prepare
    try:
        prepared = prepare(**vars(args))
    except AuditError as error:
        for problem in error.problems:
            print(f'error: {problem}', file=sys.stderr)
        print(f'{len(error.problems)} problems; nothing was written', file=sys.stderr)
        return 2
    console = Console(highlight=False, markup=False)
    for table in prepared.tables:
        console.print(table)
    for note in prepared.notes:
        console.print(note)
    for warning in prepared.warnings:
        console.print(f'warning: {warning}', style='yellow')
    names = ', '.join(path.name for path in prepared.files)
    console.print(f'written to {prepared.files[0].parent}: {names}', soft_wrap=True)
    console.print('classes, as configs/_base_/cells.py must have them:', f'classes = {tuple(prepared.classes)!r}',
                  sep='\n  ', soft_wrap=True)
    return 0


if __name__ == '__main__':
    cli.run(main)
