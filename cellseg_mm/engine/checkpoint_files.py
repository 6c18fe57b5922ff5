"""The checkpoints in a work dir, and the files beside them."""
import re
from pathlib import Path

from cellseg_mm.evaluation.operating_point import thresholds_path


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


def files_beside(checkpoint):
    """Return the paths of what belongs to a checkpoint and goes with it, whether they exist or not."""
    return results_path(checkpoint), thresholds_path(checkpoint)
