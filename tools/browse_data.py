"""Write pictures of what the training pipeline yields: python tools/browse_data.py configs/cell_maskrcnn.py."""
import argparse
from pathlib import Path

from cellseg_mm import cli


def parse_args():
    parser = argparse.ArgumentParser(description='Write pictures of what the training pipeline really yields: image '
                                     'and ground truth after loading, resizing and augmentation.')
    parser.add_argument('config', help='config file, such as configs/cell_maskrcnn.py')
    parser.add_argument('--split', choices=('train', 'val'), default='train',
                        help='whose images; those of val go through the training pipeline too (default: %(default)s)')
    parser.add_argument('--count', type=int, default=8, help='how many images at most (default: %(default)s)')
    parser.add_argument('--out', type=Path, metavar='DIR',
                        help='where to write (default: work_dirs/<config name>/browse)')
    parser.add_argument('--cfg-options', nargs='+', metavar='KEY=VALUE',
                        help='settings to change in the config, such as data_root=data/mine')
    args = parser.parse_args()
    if args.count < 1:
        parser.error('--count must be above 0')
    return args


def main():
    args = parse_args()
    from cellseg_mm.engine.config import load_config, parse_options
    from cellseg_mm.visualization.browse import browse
    config = load_config(args.config, parse_options(args.cfg_options))
    out_dir = args.out or Path('work_dirs', Path(args.config).stem, 'browse')
    for path in browse(config, out_dir, args.split, args.count):
        print(path)


if __name__ == '__main__':
    cli.run(main)
