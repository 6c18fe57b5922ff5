"""Train and test a model on each fold of the data: python tools/cross_validate.py configs/cell_maskrcnn.py."""
import argparse
from pathlib import Path

from cellseg_mm import cli


def parse_args():
    parser = argparse.ArgumentParser(
        description='Train and test a model once for each fold that tools/prepare_data.py has written, and report each '
        'fold, their mean and spread, and all images pooled. Stopped or killed, the same command goes on from there.')
    parser.add_argument('config', help='config file, such as configs/cell_maskrcnn.py')
    parser.add_argument('--folds', type=int, help='refuse data prepared in another number of folds')
    parser.add_argument('--work-dir', help='folder for all trainings and results (default: work_dirs/<config name>_cv)')
    parser.add_argument('--amp', action='store_true', help='train in mixed precision')
    parser.add_argument('--nproc-per-node', type=int, metavar='N', help='train by N processes, as torchrun does')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE',
                        help='settings to change in the config, such as data_root=data/mine train_cfg.max_epochs=50')
    args = parser.parse_args()
    if args.folds is not None and args.folds < 2:
        parser.error('--folds must be 2 or more')
    if args.nproc_per_node is not None and args.nproc_per_node < 1:
        parser.error('--nproc-per-node must be above 0')
    return args


def main():
    args = parse_args()
    from cellseg_mm.engine.cross_validation import cross_validate
    work_dir = args.work_dir or Path('work_dirs', f'{Path(args.config).stem}_cv')
    return cross_validate(args.config, work_dir, Path(__file__).resolve().with_name('train.py'), args.folds,
                          args.cfg_options, args.amp, args.nproc_per_node)


if __name__ == '__main__':
    cli.run(main)
