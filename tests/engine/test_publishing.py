import numpy as np
import pytest
import torch
from local_model import CLASSES, discs, write_checkpoint

from cellseg_mm.engine.publishing import publish
from cellseg_mm.errors import UserError
from cellseg_mm.inference import Predictor
from cellseg_mm.io.files import write_json
from cellseg_mm.io.work_dir import thresholds_path


@pytest.fixture
def source(tmp_path):
    path = write_checkpoint(tmp_path / 'best_epoch_3.pth')
    checkpoint = torch.load(path)
    checkpoint['optimizer'] = dict(state=[torch.ones(1000, 1000)])
    checkpoint['meta']['cfg'] += "work_dir = '/home/me/secret'\n"
    torch.save(checkpoint, path)
    write_json(thresholds_path(path), dict.fromkeys(CLASSES, 0.6))
    return path


def test_what_is_published_predicts_the_same_from_half_the_bytes(source, tmp_path):
    publish(source, target := tmp_path / 'weights/mine.pth')
    whole, found = (Predictor(path)(discs()) for path in (source, target))
    assert len(whole) == pytest.approx(len(found), rel=0.05)  # some are at the edge of what counts
    np.testing.assert_allclose(np.sort(whole.scores)[-100:], np.sort(found.scores)[-100:], atol=0.03)
    areas = [np.sort(cells.masks.areas[np.argsort(-cells.scores)[:50]]) for cells in (whole, found)]
    assert np.median(np.abs(np.subtract(*areas))) <= 1
    state = torch.load(target)['state_dict']
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    assert target.stat().st_size < 1.1 * size + 1e5
    assert {tensor.dtype for tensor in state.values()} == {torch.float16, torch.int64}


def test_folders_of_the_machine_and_the_optimizer_stay_there(source, tmp_path):
    assert 'secret' in torch.load(source)['meta']['cfg']
    publish(source, target := tmp_path / 'mine.pth')
    published = torch.load(target)
    assert published.keys() == {'state_dict', 'meta'}
    assert 'secret' not in published['meta']['cfg']
    assert 'init_cfg' not in published['meta']['cfg'].replace('init_cfg=None', '')
    assert published['meta']['dataset_meta']['classes'] == CLASSES


def test_weights_beyond_half_precision_are_refused(source, tmp_path):
    checkpoint = torch.load(source)
    checkpoint['state_dict']['neck.fpn_convs.0.conv.weight'][0, 0, 0, 0] = 1e5
    torch.save(checkpoint, source)
    with pytest.raises(UserError, match=r'neck\.fpn_convs\.0\.conv\.weight is not finite in half precision: .* 100000'):
        publish(source, tmp_path / 'mine.pth')
    assert not (tmp_path / 'mine.pth').exists()


def test_nothing_is_overwritten(source, tmp_path):
    (tmp_path / 'mine.pth').write_text('mine')
    with pytest.raises(UserError, match='it exists already'):
        publish(source, tmp_path / 'mine.pth')
    assert (tmp_path / 'mine.pth').read_text() == 'mine'
