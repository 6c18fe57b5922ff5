import pytest
from conftest import TINY_CONFIG

from cellseg_mm.datasets import cell_dataset
from cellseg_mm.engine import training
from cellseg_mm.errors import UserError
from cellseg_mm.io.files import read_json


def child(tmp_path, name, text):
    path = tmp_path / f'{name}.py'
    path.write_text(f'_base_ = {str(TINY_CONFIG)!r}\n{text}\n')
    return path


def test_a_good_config_has_nothing_to_mend(call_tool, tiny_data):
    status, out, err = call_tool('check_config', TINY_CONFIG, '--cfg-options', f'data_root={tiny_data}', 'max_dets=150')
    assert (status, err) == (0, '')
    assert out.splitlines()[-1] == f'{TINY_CONFIG}: nothing to mend'


def test_warnings_alone_are_no_failure(call_tool, tiny_data):
    status, out, _ = call_tool('check_config', TINY_CONFIG, '--cfg-options', f'data_root={tiny_data}')
    assert status == 0
    assert f'{TINY_CONFIG}: warning: max_dets is 50, and the fullest image has ' in out
    assert 'nothing to mend' not in out


def test_each_config_is_checked_whatever_the_others_are(call_tool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no data there, which a demo leaves in the repository
    wrong = child(tmp_path, 'wrong', "default_hooks = dict(checkpoint=dict(save_best='mAP'))")
    broken = child(tmp_path, 'broken', 'oh no')
    status, out, err = call_tool('check_config', wrong, TINY_CONFIG)
    assert status == 1
    assert f'{wrong}: error: default_hooks.checkpoint.save_best is mAP, which validation does not return: set it' in out
    assert f'{TINY_CONFIG}: nothing to mend' in out
    status, out, err = call_tool('check_config', broken, tmp_path / 'nowhere.py', wrong, TINY_CONFIG)
    assert status == 1
    assert f'{wrong}: error: ' in out
    assert f'{TINY_CONFIG}: nothing to mend' in out
    first, second = err.splitlines()
    assert first.startswith(f'error: {broken}: SyntaxError')
    assert second.startswith(f'error: {tmp_path}/nowhere.py: there is no such config')
    assert call_tool('check_config', broken)[0] == 2


def test_a_training_stops_at_an_error_before_any_work(call_tool, tiny_data, tmp_path):
    wrong = child(tmp_path, 'wrong', "default_hooks = dict(checkpoint=dict(save_best='mAP'))\n"
                  "custom_hooks = [dict(type='EarlyStoppingHook', monitor='AP', rule='greater', min_delta=0.001)]")
    status, _, err = call_tool('train', wrong, '--work-dir', tmp_path / 'work', '--cfg-options',
                                 f'data_root={tiny_data}')
    assert status == 2
    assert err.splitlines()[-1] == (
        f'error: {wrong}: default_hooks.checkpoint.save_best is mAP, which validation does not return: set it to '
        f'cells/AP50_dense; and 1 more: python tools/check_config.py {wrong}')
    assert not [path for path in (tmp_path / 'work').rglob('*') if path.is_file()]


def test_a_training_says_each_warning_once_and_reads_annotations_once_before_its_data_sets(
        tiny_config, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(cell_dataset, 'read_json', lambda path, _: read.append(path.stem) or read_json(path, ''))
    monkeypatch.setattr(training.CellRunner, 'train', lambda _: None)
    monkeypatch.setattr(training, '_conclude', lambda *_: None)
    training.train(tiny_config, tmp_path)
    assert read == ['train', 'val']
    log, = tmp_path.rglob('*.log')
    warnings = [line for line in log.read_text().splitlines() if ' - WARNING - config: ' in line]
    assert len(warnings) == 1
    assert 'max_dets is 50, and the fullest image has ' in warnings[0]


def test_a_training_is_checked_as_its_flags_make_it(tiny_config, tmp_path, monkeypatch):
    def check(config, _):
        raise UserError(f'{config.optim_wrapper.type}, scaled: {config.auto_scale_lr.enable}')

    monkeypatch.setattr(training, 'check_config', check)
    with pytest.raises(UserError, match='AmpOptimWrapper, scaled: True'):
        training.train(tiny_config, tmp_path, amp=True, auto_scale_lr=True)
