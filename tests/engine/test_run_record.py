import json
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MessageHub

from cellseg_mm.engine.preflight import check_data
from cellseg_mm.engine.run_record import RunRecordHook, data_record, hardware, versions

NOTHING = {'images': [], 'annotations': []}


def test_the_data_are_counted_from_the_annotation_files(tiny_config, tiny_data):
    record = data_record(tiny_config, check_data(tiny_config, ('train', 'val')))
    for split in ('train', 'val'):
        annotations = json.loads((tiny_data / f'annotations/{split}.json').read_text())
        assert record[f'{split}_images'] == len(annotations['images']) > 0
        assert record[f'{split}_cells'] == len(annotations['annotations']) > 0
    assert 'groups, by appearance' in record['grouping']


@pytest.mark.parametrize('info', [None, {}, 'words'])
def test_files_of_other_programs_do_not_say_how_they_were_split(tiny_config, info):
    assert data_record(tiny_config, dict.fromkeys(('train', 'val'), NOTHING | {'info': info}))['grouping'] == ''


@pytest.mark.parametrize(('home', 'written'), [
    ('/home/ada', '~/cells'), ('/home/ad', '/home/ada/cells'), ('/', '/home/ada/cells')])
def test_the_home_directory_is_not_told(tiny_config, monkeypatch, home, written):
    monkeypatch.setenv('HOME', home)
    tiny_config.data_root = '/home/ada/cells'
    assert data_record(tiny_config, dict.fromkeys(('train', 'val'), NOTHING))['root'] == written


def test_the_machine_and_the_packages_are_described():
    machine = hardware()
    assert machine['processor']
    assert machine['cores'] >= 1
    assert machine['memory_gb'] > 0.1
    assert len(machine['gpus']) == torch.cuda.device_count()
    assert versions()['torch'] == torch.__version__
    assert versions().keys() == {'python', 'cellseg_mm', 'torch', 'torchvision', 'mmdet', 'mmcv', 'mmengine', 'numpy'}


def test_a_resumed_run_adds_to_the_time_of_the_run_before(tmp_path, monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr('cellseg_mm.engine.run_record.time.monotonic', lambda: clock.now)
    runner = SimpleNamespace(message_hub=MessageHub.get_instance('resumed'), work_dir=tmp_path, epoch=0, seed=7,
                             model=torch.nn.Linear(2, 3), train_dataloader=SimpleNamespace(dataset=range(11)))

    def train(epochs):
        hook = RunRecordHook({'root': 'data'})
        hook.before_train(runner)
        for _ in range(epochs):
            hook.before_train_epoch(runner)
            clock.now += 10
            hook.after_train_iter(runner, 0)
            hook.after_train_epoch(runner)
            runner.epoch += 1
            clock.now += 5
            hook.after_val_epoch(runner)
        hook.after_train(runner)
        return json.loads((tmp_path / 'run.json').read_text())

    first = train(epochs=2)
    assert (first['seconds'], first['epochs'], first['seed'], first['parameters']) == (30, 2, 7, 9)
    assert first['epoch_images'] == 11
    assert first['peak_memory_mb']['cpu'] > 50
    clock.now += 1000  # between the runs
    second = train(epochs=1)
    assert (second['seconds'], second['epochs'], second['started']) == (45, 3, first['started'])
    assert second['peak_memory_mb']['cpu'] >= first['peak_memory_mb']['cpu']
