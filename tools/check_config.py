"""Look for mistakes in configs before training: python tools/check_config.py configs/cell_maskrcnn.py."""
import argparse
import sys

from cellseg_mm import cli


def parse_args():
    parser = argparse.ArgumentParser(
        description='Look for what is wrong in configs, and for what is hardly meant: classes, limits, stages, '
        'metrics, schedules, pipelines, weights, anchors, memory. Exits with 1 where a config has an error or cannot '
        'be read, with 2 where none can.')
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='config file, such as configs/cell_maskrcnn.py')
    parser.add_argument('--cfg-options', nargs='+', metavar='KEY=VALUE',
                        help='settings to change in all of them, such as data_root=data/mine')
    return parser.parse_args()


def main():
    args = parse_args()
    from cellseg_mm.engine.config import load_config, parse_options
    from cellseg_mm.engine.config_check import check_config
    from cellseg_mm.errors import UserError
    options, unreadable, wrong = parse_options(args.cfg_options), 0, 0
    for path in args.configs:
        try:
            findings = check_config(load_config(path, options))
        except UserError as error:
            print(f'error: {error}', file=sys.stderr)
            unreadable += 1
            continue
        for finding in findings:
            print(f'{path}: {finding.level}: {finding}')
        if all(finding.level == 'note' for finding in findings):
            print(f'{path}: nothing to mend')
        wrong += any(finding.level == 'error' for finding in findings)
    return 2 if unreadable == len(args.configs) else int(unreadable + wrong > 0)


if __name__ == '__main__':
    cli.run(main)
