import json

import pytest
import torch
from conftest import TINY_CONFIG, kill_tool_when, run_tool

RESULTS = [f'cross-validation{end}' for end in ('-results.json', '-annotations.json', '-evaluation.json', '.csv')]


@pytest.mark.parametrize(('arguments', 'message'), [
    (('configs/nothing.py', ), 'there is no such config'),
    ((TINY_CONFIG, '--cfg-options', 'data_root=nowhere'), 'nowhere: there is no such folder'),
    ((TINY_CONFIG, '--cfg-options', 'data_root={tmp}'), 'no annotations yet; run: python tools/prepare_data.py'),
    ((TINY_CONFIG, '--cfg-options', 'data_root={data}', 'classes=a,b'), 'its classes are'),
    ((TINY_CONFIG, '--cfg-options', 'data_root={data}'), 'no folds in it; run: python tools/prepare_data.py {data} -'),
    ((TINY_CONFIG, '--folds', '4', '--cfg-options', 'data_root={data}'), '{data} --folds 4, with its other options'),
])
def test_what_the_user_can_mend_is_one_line_before_any_work(call_tool, tiny_data, tmp_path, arguments, message):
    status, _, errors = call_tool('cross_validate', '--work-dir', tmp_path / 'new', *(
        str(argument).format(tmp=tmp_path, data=tiny_data) for argument in arguments))
    line, = errors.strip().splitlines()
    assert status == 2
    assert line.startswith('error: ')
    assert message.format(data=tiny_data) in line
    assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize(('arguments', 'message'), [
    (('--folds', '1'), '--folds must be 2 or more'), (('--nproc-per-node', '0'), '--nproc-per-node must be above 0')])
def test_numbers_that_make_no_sense_are_refused(call_tool, arguments, message):
    status, _, errors = call_tool('cross_validate', TINY_CONFIG, *arguments)
    assert status == 2
    assert message in errors


def arguments(data, work_dir):
    return [str(argument) for argument in (TINY_CONFIG, '--work-dir', work_dir, '--cfg-options', f'data_root={data}')]


@pytest.mark.slow
def test_a_run_killed_twice_ends_as_one_that_was_left_alone(folded_data, tmp_path):
    alone, killed = tmp_path / 'alone', tmp_path / 'killed'
    run = run_tool('cross_validate', *arguments(folded_data, alone))
    assert run.returncode == 0, run.stderr
    kill_tool_when(killed / 'fold0/epoch_1.pth', 'cross_validate', *arguments(folded_data, killed))
    assert not (killed / 'fold0/epoch_3.pth').exists()
    kill_tool_when(killed / 'fold1/epoch_2.pth', 'cross_validate', *arguments(folded_data, killed))
    assert json.loads((killed / 'cross-validation.json').read_text())['done'] == [0]
    run = run_tool('cross_validate', *arguments(folded_data, killed))
    assert run.returncode == 0, run.stderr
    assert f'fold 1 of 2: done, in {killed}/fold0' in run.stdout
    for name in RESULTS:
        assert (killed / name).read_bytes() == (alone / name).read_bytes(), name
    for fold in range(2):
        found, expected = (torch.load(work_dir / f'fold{fold}/epoch_3.pth', weights_only=True)['state_dict']
                           for work_dir in (killed, alone))
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
        assert (killed / f'fold{fold}/report.html').is_file()
    again = run_tool('cross_validate', *arguments(folded_data, killed))
    assert again.stdout.count(': done, in ') == 2
    assert 'training in' not in again.stdout
    assert again.stdout.partition('\nAP50, dense cap ')[2] == run.stdout.partition('\nAP50, dense cap ')[2] != ''


@pytest.mark.slow
def test_two_processes_train_each_fold_together(folded_data, tmp_path):
    run = run_tool('cross_validate', *arguments(folded_data, tmp_path), 'train_cfg.max_epochs=1',
                   '--nproc-per-node', '2')
    assert run.returncode == 0, run.stderr
    for fold in range(2):
        checkpoint = torch.load(tmp_path / f'fold{fold}/epoch_1.pth', weights_only=True)
        assert len(checkpoint['random_states']) == 2
    assert (tmp_path / 'cross-validation.html').is_file()
