"""What each part of a recipe is worth: python benchmarks/recipe.py ROOT [CONFIG...] [--jobs 2]

Each config of benchmarks/recipe/ changes one thing of the config that it is based on, most often base.py, and what has
to go with it; its first line says what. report.py and cascade.py are other models. All are trained for equally many
iterations on each of the folds that `tools/prepare_data.py ROOT --folds 3` made of the training images, the fold's
number being the seed, and evaluated on what the fold holds back. Differences from the base are paired by fold. One that
is beyond what chance does to its mean in 19 of 20 cases, by Student's t over three folds or more, is printed in bold;
of 20 figures that do not change, one is.

A run takes one thread, so that --jobs of them share the cores, and its time depends a little on what runs beside. It is
compared with the base's where the processor was the same. Runs are kept in --out; what came of them is added to
--results. Stopped or killed, the same command goes on from there. --table trains nothing and prints what has been
measured as a table of Markdown.

--images trains on a few images alone, each of which is seen so much more often, as in a long training; it takes results
of its own: --images 3 --results benchmarks/recipe_few.json --out work_dirs/recipe_few.
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

from scipy import stats

from cellseg_mm import cli
from cellseg_mm.datasets.folds import fold_file
from cellseg_mm.engine.run_record import hardware
from cellseg_mm.errors import UserError
from cellseg_mm.io.files import alone_in, write_json

HERE = Path(__file__).resolve().parent
CONFIGS, RESULTS = HERE / 'recipe', HERE / 'recipe.json'
BASE = 'base'
FIGURES = {'AP50_dense': 'AP50', 'AP50_cap100': 'AP50, cap 100', 'bPQ': 'PQ', 'bDQ': 'DQ', 'bSQ': 'SQ', 'AJI': 'AJI',
           'F1_type': 'type F1'}
CHANGES = 'AP50_dense', 'bPQ', 'F1_type'
CERTAIN = 0.95
_running = set()  # processes


def fold_root(root, out, fold, count=None):
    """Make a data set whose training and validation are those of a fold, its images by links.

    A count takes as many images of the training, evenly from their list, in which neighbours may be alike.
    """
    folder = out / f'fold{fold}/data'
    shutil.rmtree(folder, ignore_errors=True)
    (folder / 'annotations').mkdir(parents=True)
    for path in root.iterdir():
        if path.name != 'annotations':
            (folder / path.name).symlink_to(path.resolve())
    for part in ('train', 'val'):
        shutil.copyfile(root / fold_file(fold, part), folder / f'annotations/{part}.json')
    if count:
        path = folder / 'annotations/train.json'
        split = json.loads(path.read_text(encoding='utf-8'))
        images = split['images']
        if count > len(images):
            raise UserError(f'fold {fold} trains on {len(images)} images: --images {count} is more')
        split['images'] = [images[number * len(images) // count] for number in range(count)]
        ids = {image['id'] for image in split['images']}
        split['annotations'] = [cell for cell in split['annotations'] if cell['image_id'] in ids]
        write_json(path, split)


def run(out, name, fold, iterations):
    """Train a config on a fold and evaluate it, in a process of one thread: its figures."""
    folder = out / f'fold{fold}' / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with (folder / 'log.txt').open('w', encoding='utf-8') as log:
        process = subprocess.Popen(
            [sys.executable, __file__, str(out), name, '--folds', str(fold), '--iterations', str(iterations),
             '--alone'], stdout=log, stderr=subprocess.STDOUT,
            env={**os.environ, 'OMP_NUM_THREADS': '1', 'NUMBA_NUM_THREADS': '1'})
        _running.add(process)
        code = process.wait()
        _running.remove(process)
    if code:
        raise UserError(f'{name} on fold {fold} failed: see {folder / "log.txt"}')
    scalars, = folder.glob('*/vis_data/scalars.json')
    lines = list(map(json.loads, scalars.read_text(encoding='utf-8').splitlines()))
    metrics = next(line for line in lines if 'cells/AP50_dense' in line)
    of_types = [value for key, value in metrics.items() if 'F1_type/' in key]
    metrics['cells/F1_type'] = statistics.mean(value for value in of_types if not math.isnan(value))
    machine = hardware()
    seconds = iterations * statistics.mean(line['time'] for line in lines if 'loss' in line)
    return {**{figure: round(metrics[f'cells/{figure}'], 4) for figure in FIGURES}, 'seconds': round(seconds),
            'processor': ' and '.join([machine['processor'], *machine['gpus']])}


def train_alone(out, name, fold, iterations):
    """Train here and now, on the fold that `fold_root` made."""
    from cellseg_mm.engine.amp import use_amp
    from cellseg_mm.engine.budget import apply_budget
    from cellseg_mm.engine.config import load_config
    from cellseg_mm.engine.distributed import prepare_distributed
    from cellseg_mm.engine.runner import CellRunner
    config = load_config(CONFIGS / f'{name}.py', {'data_root': str(out / f'fold{fold}/data'), 'randomness.seed': fold})
    apply_budget(config, iterations, validations=1)
    use_amp(config)
    config.work_dir = str(out / f'fold{fold}' / name)
    prepare_distributed(config, 'none')
    CellRunner.from_cfg(config).train()


def table(runs):
    """What was measured as Markdown: of each config the means over folds, and how much they differ from the base's."""
    base = runs.get(BASE, {})
    lines = ['| change | folds | ' + ' | '.join(FIGURES.values()) + ' | '
             + ' | '.join(f'change of {FIGURES[figure]}' for figure in CHANGES) + ' | time |',
             '|---' * (len(FIGURES) + len(CHANGES) + 3) + '|']
    for name in sorted(runs, key=lambda name: (name != BASE, name)):
        folds = sorted(set(runs[name]) & set(base))
        if not folds:
            continue
        means = [statistics.mean(runs[name][fold][figure] for fold in folds) for figure in FIGURES]
        changes = ['' if name == BASE else difference([runs[name][fold][figure] - base[fold][figure] for fold in folds])
                   for figure in CHANGES]
        ratios = [runs[name][fold]['seconds'] / base[fold]['seconds'] for fold in folds
                  if runs[name][fold]['processor'] == base[fold]['processor']]
        lines.append(f'| {name} | {len(folds)} | ' + ' | '.join(f'{value:.3f}' for value in means)
                     + f' | {" | ".join(changes)} | {f"{statistics.mean(ratios):.2f}" if ratios else "-"} |')
    return '\n'.join(lines)


def difference(differences):
    """The mean and its standard error, bold where it is beyond chance."""
    mean = statistics.mean(differences)
    if len(differences) < 2:
        return f'{mean:+.3f}'
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    text = f'{mean:+.3f} ± {error:.3f}'
    quantile = stats.t.ppf((1 + CERTAIN) / 2, len(differences) - 1)
    return f'**{text}**' if len(differences) > 2 and abs(mean) > quantile * error else text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('root', type=Path, nargs='?', help='such as CoNSeP in whole tiles, prepared with --folds')
    parser.add_argument('configs', nargs='*', metavar='CONFIG', help='names in benchmarks/recipe/ (default: all)')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/recipe'))
    parser.add_argument('--folds', type=int, nargs='+', default=[0, 1, 2], metavar='N')
    parser.add_argument('--iterations', type=int, help='of each run (default: 300, or those of the runs before)')
    parser.add_argument('--images', type=int, metavar='N', help='train on N images of each fold (default: all)')
    parser.add_argument('--results', type=Path, default=RESULTS, metavar='JSON', help='what was measured (default: '
                        'benchmarks/recipe.json)')
    parser.add_argument('--jobs', type=int, default=1, help='runs at once')
    parser.add_argument('--table', action='store_true', help='print what has been measured')
    parser.add_argument('--alone', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_intermixed_args()  # names may follow --jobs 2
    if args.alone:
        train_alone(args.root, *args.configs, *args.folds, args.iterations)
        return 0
    results = json.loads(args.results.read_text(encoding='utf-8')) if args.results.exists() else {
        'iterations': args.iterations or 300, 'images': args.images, 'runs': {}}
    if args.table:
        print(table(results['runs']))
        return 0
    if args.root is None:
        raise UserError('name the folder of the data')
    iterations = results['iterations']
    if args.iterations not in (None, iterations):
        raise UserError(f'{args.results}: its runs have {iterations} iterations: ask for as many, or move it away')
    if args.images != results['images']:
        raise UserError(f'{args.results}: its runs trained on {results["images"] or "all"} images: name others by '
                        '--results')
    args.out.mkdir(parents=True, exist_ok=True)
    with alone_in(args.out, 'an ablation'):
        failed = measure(args, results, iterations)
    print(table(results['runs']))
    return 1 if failed else 0


def measure(args, results, iterations):
    """Do the runs that are missing, and write what comes of each: how many failed."""
    for fold in args.folds:
        fold_root(args.root.resolve(), args.out.resolve(), fold, args.images)
    names = args.configs or sorted(path.stem for path in CONFIGS.glob('*.py') if path.stem != BASE)
    missing = [(name, fold) for fold in args.folds for name in dict.fromkeys([BASE, *names])
               if str(fold) not in results['runs'].get(name, {})]
    lock = threading.Lock()

    def record(name, fold):
        figures = run(args.out.resolve(), name, fold, iterations)
        with lock:
            results['runs'].setdefault(name, {})[str(fold)] = figures
            write_json(args.results, results, indent=1)
        print(name, fold, figures, flush=True)

    pool, failed = ThreadPoolExecutor(args.jobs), 0
    try:
        for job in as_completed([pool.submit(record, *job) for job in missing]):
            if job.exception():
                failed += 1
                print(f'error: {job.exception()}', file=sys.stderr, flush=True)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list(_running):  # where this one is told to end
            process.terminate()
    return failed


if __name__ == '__main__':
    cli.run(main)
