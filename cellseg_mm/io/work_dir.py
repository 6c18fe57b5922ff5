"""What lies where in the work dir of a training."""
import glob
import re
from pathlib import Path

RESULTS_NAME = 'val-results.json'
EVALUATION_NAME = 'val-evaluation.json'
RECORD_NAME = 'run.json'
_THRESHOLDS = re.compile(r'\.thresholds(-[a-z]+)*\.json')


def newest_config(work_dir):
    """Return the path of the config that was written last to `work_dir`, or None."""
    return max(Path(work_dir).glob('*.py'), key=lambda path: path.stat().st_mtime, default=None)


def last_checkpoint(work_dir):
    """Return the path of the last epoch's checkpoint in `work_dir`, or None."""
    return _newest(work_dir, 'epoch')


def best_checkpoint(work_dir):
    """Return the path of the best epoch's checkpoint in `work_dir`, or None."""
    return _newest(work_dir, 'best_epoch')


def _newest(work_dir, prefix):
    epochs = {epoch: path for kind, epoch, path in epoch_files(work_dir) if kind == prefix}
    return epochs[max(epochs)] if epochs else None


def epoch_files(work_dir):
    """Yield (kind, epoch, path) of every checkpoint in `work_dir`; the kind is 'epoch' or 'best_epoch'."""
    for path in Path(work_dir).glob('*.pth'):
        if match := re.fullmatch(r'(epoch|best_epoch)_(\d+)\.pth', path.name):
            yield match[1], int(match[2]), path


def best_path(work_dir, epoch):
    """Return the path of the best epoch's weights in `work_dir`."""
    return Path(work_dir) / f'best_epoch_{epoch}.pth'


def results_path(checkpoint):
    """Return the path of what the best epoch predicted on the validation images, beside its checkpoint."""
    return Path(checkpoint).with_suffix('.results.json')


def thresholds_path(checkpoint, views=()):
    """Return the path of a checkpoint's thresholds, beside it; those for test-time augmentation are of its views."""
    names = set(views) - ({'flips'} if 'turns' in views else set())  # which turns include
    return Path(checkpoint).with_suffix(f'.{"-".join(["thresholds", *sorted(names)])}.json')


def all_thresholds(checkpoint):
    """Return the paths of those thresholds of a checkpoint that are there, of whatever views."""
    path = Path(checkpoint)
    return sorted(found for found in path.parent.glob(f'{glob.escape(path.stem)}.thresholds*.json')
                  if _THRESHOLDS.fullmatch(found.name.removeprefix(path.stem)))


def files_beside(checkpoint):
    """Return the paths of what belongs to a checkpoint and goes with it; its results need not exist."""
    return results_path(checkpoint), *all_thresholds(checkpoint)
