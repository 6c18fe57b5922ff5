"""What each part of a recipe is worth: python benchmarks/recipe.py ROOT [CONFIG...] [--jobs 2]

Each config of benchmarks/recipe/ changes one thing of base.py, which its first line names. All are trained for equally
many iterations on each of the folds that `tools/prepare_data.py ROOT --folds 3` made of the training images, the fold's
number being the seed, and evaluated on what the fold holds back. A gain or loss is one where all folds agree on its
sign and its mean over the folds is above twice its standard error.

A run takes one thread, so that --jobs of them share the cores. They are kept in --out; what came of them is added to
benchmarks/recipe.json. Stopped or killed, the same command goes on from there. --table trains nothing and prints what
has been measured as a table of Markdown.
"""
import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from cellseg_mm import cli
from cellseg_mm.datasets.folds import fold_file
from cellseg_mm.engine.run_record import hardware
from cellseg_mm.errors import UserError
from cellseg_mm.io.files import write_json

HERE = Path(__file__).resolve().parent
CONFIGS, RESULTS = HERE / 'recipe', HERE / 'recipe.json'
BASE = 'base'
FIGURES = {'AP50_dense': 'AP50', 'bPQ': 'PQ', 'bDQ': 'DQ', 'bSQ': 'SQ', 'AJI': 'AJI', 'F1_type': 'type F1'}
CERTAIN = 2  # standard errors


def fold_root(root, out, fold):
    """A data set whose training and validation are those of a fold, its images by links."""
    folder = out / f'fold{fold}/data'
    (folder / 'annotations').mkdir(parents=True, exist_ok=True)
    for path in root.iterdir():
        link = folder / path.name
        if path.name != 'annotations' and not link.exists():
            link.symlink_to(path.resolve())
    for part in ('train', 'val'):
        shutil.copyfile(root / fold_file(fold, part), folder / f'annotations/{part}.json')
    return folder


def run(out, name, fold, iterations):
    """Train a config on a fold and evaluate it, in a process of one thread: its figures."""
    folder = out / f'fold{fold}' / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with (folder / 'log.txt').open('w', encoding='utf-8') as log:
        code = subprocess.run([sys.executable, __file__, str(out), name, '--folds', str(fold), '--iterations',
                               str(iterations), '--alone'], stdout=log, stderr=subprocess.STDOUT, check=False,
                              env={**os.environ, 'OMP_NUM_THREADS': '1', 'NUMBA_NUM_THREADS': '1'}).returncode
    if code:
        raise UserError(f'{name} on fold {fold} failed: see {folder / "log.txt"}')
    scalars, = folder.glob('*/vis_data/scalars.json')
    lines = list(map(json.loads, scalars.read_text(encoding='utf-8').splitlines()))
    metrics = next(line for line in lines if 'cells/AP50_dense' in line)
    metrics['cells/F1_type'] = statistics.mean(value for key, value in metrics.items() if 'F1_type/' in key)
    seconds = iterations * statistics.mean(line['time'] for line in lines if 'loss' in line)
    return {**{figure: round(metrics[f'cells/{figure}'], 4) for figure in FIGURES}, 'seconds': round(seconds)}


def train_alone(out, name, fold, iterations):
    """Train here and now, on the fold that `fold_root` made."""
    import torch

    from cellseg_mm.engine.budget import apply_budget
    from cellseg_mm.engine.config import load_config
    from cellseg_mm.engine.distributed import prepare_distributed
    from cellseg_mm.engine.runner import CellRunner
    config = load_config(CONFIGS / f'{name}.py', {'data_root': str(out / f'fold{fold}/data'), 'randomness.seed': fold})
    apply_budget(config, iterations, validations=1)
    config.optim_wrapper.type = 'AmpOptimWrapper' if torch.cuda.is_available() else 'CPUAmpOptimWrapper'
    config.work_dir = str(out / f'fold{fold}' / name)
    prepare_distributed(config, 'none')
    CellRunner.from_cfg(config).train()


def table(results):
    """The results as Markdown: of each config the means over folds, and of the others by how much they differ."""
    base = results['runs'][BASE]
    lines = ['| change | ' + ' | '.join(FIGURES.values()) + ' | change of AP50 | change of PQ | time |',
             '|---|' + '---|' * (len(FIGURES) + 3)]
    for name in sorted(results['runs'], key=lambda name: (name != BASE, name)):
        runs = results['runs'][name]
        folds = sorted(set(runs) & set(base))
        means = [statistics.mean(runs[fold][figure] for fold in folds) for figure in FIGURES]
        changes = [difference([runs[fold][figure] - base[fold][figure] for fold in folds])
                   if name != BASE and len(folds) > 1 else '' for figure in ('AP50_dense', 'bPQ')]
        seconds = statistics.mean(runs[fold]['seconds'] / base[fold]['seconds'] for fold in folds)
        lines.append(f'| {name} | ' + ' | '.join(f'{value:.3f}' for value in means)
                     + f' | {" | ".join(changes)} | {seconds:.2f} |')
    return '\n'.join(lines)


def difference(differences):
    """The mean and its standard error, bold where it is a gain or a loss by the rule above."""
    mean = statistics.mean(differences)
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    text = f'{mean:+.3f} ± {error:.3f}'
    agree = len({value > 0 for value in differences}) == 1
    return f'**{text}**' if len(differences) > 2 and agree and abs(mean) > CERTAIN * error else text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('root', type=Path, nargs='?', help='such as CoNSeP in whole tiles, prepared with --folds')
    parser.add_argument('configs', nargs='*', metavar='CONFIG', help='names in benchmarks/recipe/ (default: all)')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/recipe'))
    parser.add_argument('--folds', type=int, nargs='+', default=[0, 1, 2], metavar='N')
    parser.add_argument('--iterations', type=int, default=400)
    parser.add_argument('--jobs', type=int, default=1, help='runs at once')
    parser.add_argument('--table', action='store_true', help='print what has been measured')
    parser.add_argument('--alone', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        train_alone(args.root, *args.configs, *args.folds, args.iterations)
        return
    results = json.loads(RESULTS.read_text(encoding='utf-8')) if RESULTS.exists() else {
        'iterations': args.iterations, 'hardware': hardware(), 'runs': {}}
    if args.table:
        print(table(results))
        return
    if args.root is None:
        raise UserError('name the folder of the data')
    if results['iterations'] != args.iterations:
        raise UserError(f'{RESULTS}: its runs have {results["iterations"]} iterations; delete it, or ask for as many')
    for fold in args.folds:
        fold_root(args.root.resolve(), args.out.resolve(), fold)
    names = args.configs or sorted(path.stem for path in CONFIGS.glob('*.py') if path.stem != BASE)
    missing = [(name, fold) for fold in args.folds for name in dict.fromkeys([BASE, *names])
               if str(fold) not in results['runs'].get(name, {})]
    lock = threading.Lock()

    def record(name, fold):
        figures = run(args.out.resolve(), name, fold, args.iterations)
        with lock:
            results['runs'].setdefault(name, {})[str(fold)] = figures
            write_json(RESULTS, results, indent=1)
        print(name, fold, figures, flush=True)

    pool = ThreadPoolExecutor(args.jobs)
    try:
        for job in as_completed([pool.submit(record, *job) for job in missing]):
            if job.exception():
                print(f'error: {job.exception()}', file=sys.stderr, flush=True)
    finally:
        pool.shutdown(cancel_futures=True)  # where the user stops it, those in work come to their end
    print(table(results))


if __name__ == '__main__':
    cli.run(main)
