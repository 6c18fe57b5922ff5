import json

import pytest
import torch
from conftest import TINY_CONFIG, kill_tool_when, run_tool

from cellseg_mm.datasets.cell_dataset import read_cells
from cellseg_mm.io.image import write_image
from cellseg_mm.structures.local_masks import LocalMasks


@pytest.mark.parametrize(('arguments', 'message'), [
    ((), 'the following arguments are required: ITEM'),
    (('a.py', '--iterations', '3', '--minutes', '2'), '--minutes: not allowed with argument --iterations'),
    (('a.py', '--iterations', '0'), '--iterations must be above 0'), (('a.py', '--minutes', '-1'), '--minutes must be'),
    (('a.py', '--minutes', 'nan'), '--minutes must be above 0'), (('a.py', '--max-dets', '0'), '--max-dets must be'),
    (('a.py', '--nproc-per-node', '0'), '--nproc-per-node must be'), (('a.py', '--seed', '-1'), '--seed must be 0 or'),
    (('configs/nothing.py', ), 'error: configs/nothing.py: there is no such config'),
    (('nothing.json', '--ground-truth', '{data}/annotations/val.json'), 'error: nothing.json: there is no such file'),
    ((TINY_CONFIG, '--cfg-options', 'data_root=nowhere'), 'error: nowhere/annotations/val.json: there are no'),
    ((TINY_CONFIG, 'maps={data}/train', '--cfg-options', 'data_root={data}', '--ground-truth', 'no.json'),
     'error: no.json: there are no annotations yet'),
    ((TINY_CONFIG, '--cfg-options', 'data_root={data}', '--out', '{data}/test_image_name_to_ids.json'),
     'cannot write there: File exists; name another folder with --out'),
    (('{data}/annotations', '--ground-truth', '{data}/annotations/val.json'),
     'error: {data}/annotations: there is no label map'),
])
def test_what_the_user_can_mend_is_one_line_before_any_work(call_tool, tiny_data, tmp_path, arguments, message):
    status, _, errors = call_tool('compare', '--out', tmp_path / 'new', *(
        str(argument).format(data=tiny_data) for argument in arguments))
    assert status == 2
    assert message.format(data=tiny_data) in errors.strip().splitlines()[-1]
    assert not (tmp_path / 'new').exists()


def arguments_of(data, folder, out):
    """Two configs, one that cannot train, predictions of no model, and label maps without classes."""
    for name, line in (('narrow', 'train_dataloader = dict(batch_size=1)'),
                       ('broken', "load_from = 'missing.pth'")):
        (folder / f'{name}.py').write_text(f'_base_ = {str(TINY_CONFIG)!r}\n{line}\n')
    truth = read_cells(data / 'annotations/val.json')
    (folder / 'empty.json').write_text('[]')
    for image in truth['images']:
        masks = LocalMasks.from_rles([cell['segmentation'] for cell in truth['annotations']
                                      if cell['image_id'] == image['id']], image['height'], image['width'])
        name = image['file_name'].removesuffix('/image.tif').rpartition('/')[2]
        write_image(folder / 'maps' / f'{name}.png', masks.to_label_map().astype('uint16'))
    items = TINY_CONFIG, folder / 'broken.py', folder / 'narrow.py', folder / 'empty.json', folder / 'maps'
    return [*map(str, items), '--out', str(out), '--iterations', '7', '--cfg-options', f'data_root={data}']


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_comparison_killed_twice_ends_as_one_that_was_left_alone(tiny_data, tmp_path):
    alone, killed = tmp_path / 'alone', tmp_path / 'killed'
    run = run_tool('compare', *arguments_of(tiny_data, tmp_path, alone), timeout=600)
    assert run.returncode == 1, run.stderr
    assert '[3 of 5] narrow: 7 iterations' in run.stdout
    assert 'Traceback' not in run.stderr
    arguments = arguments_of(tiny_data, tmp_path, killed)
    kill_tool_when(killed / 'tiny/epoch_2.pth', 'compare', *arguments)
    assert not (killed / 'tiny/epoch_4.pth').exists()
    kill_tool_when(killed / 'narrow/epoch_1.pth', 'compare', *arguments)
    run = run_tool('compare', *arguments, timeout=600)
    assert run.returncode == 1, run.stderr
    assert f'[1 of 5] tiny: done, in {killed}/tiny' in run.stdout
    found, expected = (json.loads((out / 'comparison.json').read_text()) for out in (killed, alone))
    assert found['class_agnostic'] is expected['class_agnostic'] is True
    for row, other in zip(found['rows'], expected['rows'], strict=True):
        for key in ('name', 'kind', 'problem', 'evaluation', 'versus_first'):
            assert row[key] == other[key], (row['name'], key)
    rows = {row['name']: row for row in found['rows']}
    assert rows['broken']['problem'].startswith('missing.pth: there is no such checkpoint')
    assert rows['maps']['evaluation']['metrics']['bPQ'] > 0.99
    assert rows['empty']['evaluation']['metrics']['AP50_dense'] == 0
    for name in ('tiny', 'narrow'):
        assert rows[name]['training']['iterations'] == 7
        assert rows[name]['cost']['images_per_second'] > 0
        weights, others = (torch.load(out / name / 'epoch_4.pth', weights_only=True)['state_dict']
                           for out in (killed, alone))
        assert all(torch.equal(weights[key], tensor) for key, tensor in others.items())
    again = run_tool('compare', *arguments, timeout=600)
    assert 'Epoch 1 of' not in again.stdout
    assert 'measuring' not in again.stderr
    assert json.loads((killed / 'comparison.json').read_text()) == found


@pytest.mark.slow
def test_minutes_are_measured_in_the_training_itself_by_two_processes(tiny_data, tmp_path):
    run = run_tool('compare', TINY_CONFIG, '--out', tmp_path, '--minutes', '0.02', '--no-cost', '--nproc-per-node', '2',
                   '--cfg-options', f'data_root={tiny_data}')
    assert run.returncode == 0, run.stderr
    plan = json.loads((tmp_path / 'comparison-plan.json').read_text())['rows']['tiny']
    row, = json.loads((tmp_path / 'comparison.json').read_text())['rows']
    assert row['training']['iterations'] == max(1, int(1.2 / plan['seconds_per_iteration']))
    assert 0.01 < plan['seconds_per_iteration'] < 10
