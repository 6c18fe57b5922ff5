import numpy as np
import pytest
import torch
from local_model import CLASSES, discs, local_config, write_checkpoint

from cellseg_mm.engine import publishing
from cellseg_mm.engine.publishing import publish
from cellseg_mm.errors import UserError
from cellseg_mm.inference import Predictor
from cellseg_mm.io.files import read_json, write_json
from cellseg_mm.io.work_dir import thresholds_path

SECRET = '/home/me/secret'


@pytest.fixture
def source(tmp_path):
    path = write_checkpoint(tmp_path / 'best_epoch_3.pth')
    checkpoint = torch.load(path)
    checkpoint['optimizer'] = dict(state=[torch.ones(1000, 1000)])
    config = local_config()
    config.work_dir = SECRET
    config.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=SECRET)
    config.test_dataloader.dataset.pipeline[0].backend_args = dict(path=SECRET)
    checkpoint['meta']['cfg'] = config.pretty_text
    checkpoint['meta']['dataset_meta']['root'] = SECRET
    torch.save(checkpoint, path)
    write_json(thresholds_path(path), dict.fromkeys(CLASSES, 0.72))
    return path


def test_what_is_published_predicts_the_same_from_half_the_bytes(source, tmp_path):
    publish(source, target := tmp_path / 'weights/mine.pth')
    whole, found = (Predictor(path)(discs()) for path in (source, target))
    assert len(whole) == pytest.approx(len(found), rel=0.1)  # some are at the edge of what counts
    assert min(found.scores) >= 0.72
    np.testing.assert_allclose(np.sort(whole.scores)[-50:], np.sort(found.scores)[-50:], atol=0.03)
    areas = [np.sort(cells.masks.areas[np.argsort(-cells.scores)[:50]]) for cells in (whole, found)]
    assert np.median(np.abs(np.subtract(*areas))) <= 1
    state = torch.load(target)['state_dict']
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    assert target.stat().st_size < 1.1 * size + 1e5
    assert {tensor.dtype for tensor in state.values()} == {torch.float16, torch.int64}


def test_folders_of_the_machine_and_the_optimizer_stay_there(source, tmp_path):
    write_json(thresholds_path(source, ['turns', 'scales']), dict.fromkeys(CLASSES, 0.3))
    for path in (tmp_path / 'a.pth', tmp_path / 'b.pth'):
        publish(source, path)
    content = (tmp_path / 'a.pth').read_bytes()
    assert SECRET.encode() not in content
    assert content == (tmp_path / 'b.pth').read_bytes()
    published = torch.load(tmp_path / 'a.pth')
    assert published.keys() == {'state_dict', 'meta'}
    assert published['meta']['dataset_meta'] == dict(classes=CLASSES, mpp=0.5, image_size=[300.0, 300.0])
    assert read_json(tmp_path / 'a.thresholds.json', '') == dict.fromkeys(CLASSES, 0.72)
    assert read_json(tmp_path / 'a.thresholds-scales-turns.json', '') == dict.fromkeys(CLASSES, 0.3)


def test_no_thresholds_are_made_up(source, tmp_path):
    thresholds_path(source).unlink()
    publish(source, tmp_path / 'mine.pth')
    assert not (tmp_path / 'mine.thresholds.json').exists()


def test_a_bare_state_dict_takes_its_config_from_a_file(source, tmp_path):
    torch.save(torch.load(source)['state_dict'], tmp_path / 'bare.pth')
    with pytest.raises(UserError, match='does not hold its config; give the config file by --config'):
        publish(tmp_path / 'bare.pth', tmp_path / 'mine.pth')
    publish(tmp_path / 'bare.pth', tmp_path / 'mine.pth', local_config())
    assert Predictor(tmp_path / 'mine.pth').classes == CLASSES


def test_a_checkpoint_of_another_model_is_refused(source, tmp_path):
    checkpoint = torch.load(source)
    del checkpoint['state_dict']['backbone.conv1.weight']
    torch.save(checkpoint, source)
    with pytest.raises(UserError, match='of another model'):
        publish(source, tmp_path / 'mine.pth')
    assert not list(tmp_path.glob('*mine*'))


@pytest.mark.parametrize('value', [1e5, float('nan')])
def test_weights_that_half_precision_cannot_hold_stay_whole_and_others_are_refused(source, tmp_path, value):
    checkpoint = torch.load(source)
    name = 'neck.fpn_convs.0.conv.weight'
    checkpoint['state_dict'][name][0, 0, 0, 0] = value
    torch.save(checkpoint, source)
    if value == 1e5:
        publish(source, tmp_path / 'mine.pth')
        assert torch.equal(torch.load(tmp_path / 'mine.pth')['state_dict'][name], checkpoint['state_dict'][name])
    else:
        with pytest.raises(UserError, match=rf'{name} is not finite'):
            publish(source, tmp_path / 'mine.pth')
        assert not list(tmp_path.glob('*mine*'))


def test_what_could_not_be_written_whole_can_be_tried_again(source, tmp_path, monkeypatch):
    def fail_at_the_second(path, thresholds):
        if list(tmp_path.glob('mine.*json')):
            raise OSError(28, 'No space left on device', str(path))
        write_json(path, thresholds)

    write_json(thresholds_path(source, ['turns']), dict.fromkeys(CLASSES, 0.3))
    with monkeypatch.context() as patched:
        patched.setattr(publishing, 'write_thresholds', fail_at_the_second)
        with pytest.raises(OSError, match='No space'):
            publish(source, tmp_path / 'mine.pth')
    assert not list(tmp_path.glob('*mine*'))
    publish(source, tmp_path / 'mine.pth')
    assert len(list(tmp_path.glob('mine*'))) == 3


def test_a_config_that_predictions_would_not_trust_is_not_published(source, tmp_path):
    config = local_config()
    config.custom_imports = dict(imports=['cellseg_mm.register', 'json'])
    with pytest.raises(UserError, match=r'mine\.pth: its config imports .*json'):
        publish(source, tmp_path / 'mine.pth', config)
    assert not list(tmp_path.glob('*mine*'))


@pytest.mark.parametrize('name', ['mine.pth', 'mine.thresholds.json'])
def test_nothing_is_overwritten(source, tmp_path, name):
    (tmp_path / name).write_text('mine')
    with pytest.raises(UserError, match=f'{name}: it exists already'):
        publish(source, tmp_path / 'mine.pth')
    assert [path.read_text() for path in tmp_path.glob('mine*')] == ['mine']
