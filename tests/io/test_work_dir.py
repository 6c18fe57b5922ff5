import os

from cellseg_mm.io.work_dir import best_checkpoint, files_beside, last_checkpoint, newest_config, thresholds_path


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


def test_predictions_and_thresholds_lie_beside_their_checkpoint(tmp_path):
    best = tmp_path / 'best_epoch_7.pth'
    plain, of_views = thresholds_path(best), thresholds_path(best, ['turns', 'scales'])
    assert plain == tmp_path / 'best_epoch_7.thresholds.json'
    assert of_views == thresholds_path(best, ('scales', 'turns', 'scales')) == (
        tmp_path / 'best_epoch_7.thresholds-scales-turns.json')
    assert thresholds_path(best, ['flips', 'turns']) == thresholds_path(best, ['turns']) == (
        tmp_path / 'best_epoch_7.thresholds-turns.json')  # eight views, which the flips are among
    mine = [tmp_path / f'best_epoch_7.thresholds{suffix}.json' for suffix in ('_mine', '.old', '-1')]
    for path in (plain, of_views, thresholds_path(tmp_path / 'best_epoch_70.pth'), *mine):
        path.touch()
    assert files_beside(best) == (tmp_path / 'best_epoch_7.results.json', of_views, plain)
