"""Write a page about a prepared data set: python tools/audit_data.py data/cells."""
import argparse
from pathlib import Path

from cellseg_mm import cli

CONFIG = Path(__file__).parents[1] / 'configs/cell_maskrcnn.py'


def parse_args():
    parser = argparse.ArgumentParser(description='Write one HTML file about a data set that tools/prepare_data.py has '
                                     'prepared: its classes, sizes, colours and groups, pictures of its cells, what '
                                     'looks wrong, and what it asks of a model.')
    parser.add_argument('root', type=Path, metavar='ROOT', help='folder of the data set')
    parser.add_argument('--config', default=CONFIG, help='the model that the last part speaks of (default: '
                        'configs/cell_maskrcnn.py)')
    parser.add_argument('--out', type=Path, metavar='FILE', help='the file to write (default: ROOT/data_report.html)')
    parser.add_argument('--workers', type=int, help='processes (default: one a core)')
    parser.add_argument('--cfg-options', nargs='+', metavar='KEY=VALUE',
                        help='settings to change in the config, such as max_dets=500')
    args = parser.parse_args()
    if args.workers is not None and args.workers < 1:
        parser.error('--workers must be above 0')
    return args


def main():
    args = parse_args()
    from cellseg_mm.engine.config import load_config, parse_options
    from cellseg_mm.visualization.data_report import write_data_report
    config = load_config(args.config, parse_options(args.cfg_options))
    print(write_data_report(args.root, args.out, config, args.workers))


if __name__ == '__main__':
    cli.run(main)
