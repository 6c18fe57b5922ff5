"""The main job from beginning to end on generated images: python tools/demo.py."""
import argparse
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from cellseg_mm import cli
from cellseg_mm.errors import UserError

TOOLS = Path(__file__).resolve().parent
DATA, WORK_DIR = Path('data/demo'), Path('work_dirs/demo')


def main():
    argparse.ArgumentParser(description='Generate images, prepare, train, test and submit; some minutes on two CPU '
                            f'cores. Replaces {DATA} and {WORK_DIR}.').parse_args()
    if not Path('configs/demo.py').is_file():
        raise UserError('run this from the repository, where configs/demo.py is')
    started = time.monotonic()
    shutil.rmtree(WORK_DIR, ignore_errors=True)
    run('make_demo_data', DATA)
    run('prepare_data', DATA, '--val-fraction', '0.3', '--folds', '0')
    run('train', 'configs/demo.py')

    from cellseg_mm.io.work_dir import best_checkpoint
    best = best_checkpoint(WORK_DIR)
    run('test', 'configs/demo.py', best, '--format-only')
    run('test', 'configs/demo.py', best, '--show-dir', WORK_DIR / 'overlays')
    report(best)
    print(f'{(time.monotonic() - started) / 60:.1f} minutes')


def run(tool, *arguments):
    command = [f'{TOOLS.name}/{tool}.py', *map(str, arguments)]
    print(f'\n$ python {shlex.join(command)}', flush=True)
    status = subprocess.run([sys.executable, TOOLS / f'{tool}.py', *command[1:]], check=False).returncode
    if status:
        sys.exit(status)


def report(best):
    from cellseg_mm.engine.config import load_config
    from cellseg_mm.engine.testing import split_annotations
    from cellseg_mm.evaluation.coco_ap import average_precision
    from cellseg_mm.evaluation.instances import pair_images, read_results
    from cellseg_mm.evaluation.watershed import watershed_results
    from cellseg_mm.io.work_dir import EVALUATION_NAME, RESULTS_NAME

    config = load_config('configs/demo.py')
    truth = split_annotations(config, 'val')
    print('\ncells of any class, AP50 on the validation images:')
    for name, results in (('this model', read_results(WORK_DIR / RESULTS_NAME)),
                          ('Otsu threshold and watershed', watershed_results(truth, DATA))):
        score = average_precision(pair_images(truth, results), config.classes, config.max_dets, class_agnostic=True)
        print(f'  {name:30} {score["AP50_dense"]:.3f}')
    print('\nwritten:')
    for path in (best, *(WORK_DIR / name for name in (
            'report.html', 'curves.png', 'overlays', RESULTS_NAME, EVALUATION_NAME, 'test-results.json',
            'test-results.zip'))):
        print(f'  {path}')


if __name__ == '__main__':
    cli.run(main)
