"""Test a model: python tools/test.py configs/cell_maskrcnn.py work_dirs/cell_maskrcnn/best_epoch_20.pth."""
import argparse
from pathlib import Path

from cellseg_mm import cli


def parse_args():
    parser = argparse.ArgumentParser(
        description='Evaluate a checkpoint on the validation split, which also sets the thresholds of one that has '
        'none beside it, or write the submission for the test split.')
    parser.add_argument('config', help='config file that the checkpoint was trained with')
    parser.add_argument('checkpoint', help='checkpoint file, such as work_dirs/<config name>/best_epoch_20.pth')
    parser.add_argument('--format-only', action='store_true',
                        help='predict the test split and write test-results.json and .zip, checked')
    parser.add_argument('--work-dir', help='folder for what is written (default: work_dirs/<config name>)')
    parser.add_argument('--show-dir', metavar='DIR', help='write overlays there: ground truth beside prediction')
    parser.add_argument('--show-score-thr', type=float, metavar='SCORE',
                        help='draw predictions from this score on (default: thresholds beside the checkpoint, or 0.5)')
    parser.add_argument('--tta', nargs='+', default=[], metavar='VIEWS', dest='views',
                        help='look at images in tiles, each in several views, and fuse what is found: flips, turns, '
                        'scales; slower by as many')
    parser.add_argument('--launcher', choices=('none', 'pytorch', 'slurm', 'mpi'), default='none',
                        help='pytorch: this process was started by torchrun')
    parser.add_argument('--cfg-options', nargs='+', metavar='KEY=VALUE',
                        help='settings to change in the config, such as data_root=data/mine')
    return parser.parse_args()


def main():
    args = parse_args()
    from mmengine.dist import is_main_process

    from cellseg_mm.engine.config import load_config, parse_options
    from cellseg_mm.engine.preflight import check_work_dir
    from cellseg_mm.engine.testing import split_annotations, submit, validate
    from cellseg_mm.evaluation.evaluate import format_evaluation
    from cellseg_mm.evaluation.instances import read_results
    from cellseg_mm.evaluation.operating_point import thresholds_of
    from cellseg_mm.evaluation.submission import FILE_NAME, format_summary
    from cellseg_mm.io.work_dir import EVALUATION_NAME, RESULTS_NAME
    from cellseg_mm.visualization.overlay import write_comparisons
    config = load_config(args.config, parse_options(args.cfg_options))
    work_dir = Path(args.work_dir or Path('work_dirs', Path(args.config).stem))
    split = 'test' if args.format_only else 'val'
    if args.show_dir:
        annotations = split_annotations(config, split)
        check_work_dir(args.show_dir)
        thresholds = thresholds_of(args.checkpoint, config.classes, args.views)
    if args.format_only:
        summary = submit(config, args.checkpoint, work_dir, args.launcher, args.views)
        results = work_dir / FILE_NAME
        report = format_summary(summary, config.classes) if summary else ''
    else:
        evaluation = validate(config, args.checkpoint, work_dir, args.launcher, args.views)
        results = work_dir / RESULTS_NAME
        report = evaluation and '\n'.join([format_evaluation(evaluation), f'predictions: {results}',
                                           f'evaluation: {work_dir / EVALUATION_NAME}'])
    if not is_main_process():
        return
    print(report)
    if args.show_dir:
        if args.show_score_thr is not None:
            thresholds = dict.fromkeys(config.classes, args.show_score_thr)
        elif not args.format_only:
            thresholds = evaluation['thresholds']
        overlays = write_comparisons(
            annotations, read_results(results), config.data_root, args.show_dir, thresholds)
        print(f'overlays: {len(overlays)} in {args.show_dir}')


if __name__ == '__main__':
    cli.run(main)
