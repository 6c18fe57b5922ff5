import os
from pathlib import Path

from cellseg_mm.io.work_dir import best_checkpoint, files_beside, last_checkpoint, newest_config


def test_checkpoints_are_ordered_by_their_epoch_and_nothing_else_is_one(tmp_path):
    for name in ('epoch_9.pth', 'epoch_10.pth', 'best_epoch_2.pth', 'best_epoch_10.pth.old', 'my_epoch_99.pth'):
        (tmp_path / name).touch()
    assert last_checkpoint(tmp_path) == tmp_path / 'epoch_10.pth'
    assert best_checkpoint(tmp_path) == tmp_path / 'best_epoch_2.pth'
    assert last_checkpoint(tmp_path / 'nowhere') is best_checkpoint(tmp_path / 'nowhere') is None


def test_the_config_is_the_one_written_last(tmp_path):
    assert newest_config(tmp_path) is None
    for seconds, name in enumerate(('b.py', 'c.py', 'a.py')):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (seconds, seconds))
    assert newest_config(tmp_path) == tmp_path / 'a.py'


def test_predictions_and_thresholds_lie_beside_their_checkpoint():
    assert files_beside('work/best_epoch_7.pth') == (
        Path('work/best_epoch_7.results.json'), Path('work/best_epoch_7.thresholds.json'))
