import pickle

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub
from torch import nn

from cellseg_mm.errors import UserError
from cellseg_mm.models.checkpoint import (
    check_checkpoint_classes,
    check_resumable,
    check_weights,
    message_hub_to_plain,
    plain_to_message_hub,
    read_checkpoint,
    starting_weights,
    trained_classes,
)


class RunsCode:
    def __reduce__(self):
        return print, ('code in a checkpoint was run', )


class HidesCode:
    def __reduce__(self):
        return getattr, (dict, 'fromkeys')


def test_weights_come_back_as_they_were_saved(tmp_path):
    model = nn.Linear(3, 2)
    torch.save(dict(state_dict=model.state_dict(), meta=dict(epoch=3)), tmp_path / 'a.pth')
    checkpoint = read_checkpoint(tmp_path / 'a.pth')
    assert checkpoint['meta'] == dict(epoch=3)
    assert torch.equal(checkpoint['state_dict']['weight'], model.weight)


def test_a_bare_state_dict_is_a_checkpoint_too(tmp_path):
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / 'a.pth')
    assert read_checkpoint(tmp_path / 'a.pth')['state_dict'].keys() == {'weight', 'bias'}


@pytest.mark.parametrize('payload', [RunsCode(), HidesCode()])
def test_a_checkpoint_that_would_run_code_is_refused(tmp_path, capfd, payload):
    torch.save(dict(state_dict={}, meta=payload), tmp_path / 'evil.pth')
    with pytest.raises(UserError, match=r'evil\.pth: refused, since loading it would run code'):
        read_checkpoint(tmp_path / 'evil.pth')
    assert 'was run' not in capfd.readouterr().out


@pytest.mark.parametrize('content', [b'', b'no checkpoint', pickle.dumps([1, 2]), b'PK\x03\x04 broken'])
def test_a_damaged_file_is_told_from_a_checkpoint(tmp_path, content):
    (tmp_path / 'a.pth').write_bytes(content)
    with pytest.raises(UserError, match='not a checkpoint'):
        read_checkpoint(tmp_path / 'a.pth')


def test_a_truncated_checkpoint_is_an_error(tmp_path):
    torch.save(nn.Linear(100, 100).state_dict(), tmp_path / 'a.pth')
    content = (tmp_path / 'a.pth').read_bytes()
    (tmp_path / 'a.pth').write_bytes(content[:len(content) // 2])
    with pytest.raises(UserError, match='not a checkpoint, or a damaged one'):
        read_checkpoint(tmp_path / 'a.pth')


def test_a_missing_checkpoint_is_an_error(tmp_path):
    with pytest.raises(UserError, match='there is no such checkpoint'):
        read_checkpoint(tmp_path / 'a.pth')


def test_a_checkpoint_of_another_model_is_refused():
    with pytest.raises(UserError, match='of another model: 1 tensors are missing, 0 do not belong'):
        check_weights(nn.Linear(3, 2), dict(state_dict=nn.Linear(3, 2, bias=False).state_dict()), 'a.pth')
    with pytest.raises(UserError, match=r'weight is \(3, 3\), not \(2, 3\)'):
        check_weights(nn.Linear(3, 2), dict(state_dict=nn.Linear(3, 3).state_dict()), 'a.pth')


def test_weights_that_are_no_tensors_do_not_fit():
    weights = {'weight': [1, 2], 'bias': torch.zeros(2)}
    with pytest.raises(UserError, match=r'weight is no tensor, not \(2, 3\)'):
        check_weights(nn.Linear(3, 2), dict(state_dict=weights), 'a.pth')
    assert starting_weights(nn.Linear(3, 2), dict(state_dict=weights), 'a.pth').keys() == {'bias'}


def test_meta_data_of_another_form_are_told(tmp_path):
    torch.save(dict(state_dict={}, meta=dict(dataset_meta=[1])), tmp_path / 'a.pth')
    with pytest.raises(UserError, match='its dataset_meta is no dictionary'):
        read_checkpoint(tmp_path / 'a.pth')
    torch.save(dict(state_dict={}, meta=dict(dataset_meta=None)), tmp_path / 'a.pth')  # as of a data set without any
    assert trained_classes(read_checkpoint(tmp_path / 'a.pth'), 'a.pth') is None


@pytest.mark.parametrize('key', ['classes', 'CLASSES'])
def test_classes_are_a_list_of_different_names(key):
    assert trained_classes(dict(meta=dict(dataset_meta={key: ['a', 'b']})), 'a.pth') == ('a', 'b')
    for classes in ('cell', 3, [], ['a', 1], ['a', 'a'], {'a': 1}):
        with pytest.raises(UserError, match=r'a\.pth: its dataset_meta has the classes .*, no list of different names'):
            trained_classes(dict(meta=dict(dataset_meta={key: classes})), 'a.pth')


def test_a_checkpoint_of_other_classes_is_refused():
    checkpoint = dict(meta=dict(dataset_meta=dict(classes=('a', 'b'))))
    check_checkpoint_classes(checkpoint, ['a', 'b'], 'a.pth')
    with pytest.raises(UserError, match='trained on the classes'):
        check_checkpoint_classes(checkpoint, ['b', 'a'], 'a.pth')


def test_the_message_hub_survives_a_safe_load(tmp_path):
    hub = MessageHub.get_instance('plain')
    for value in (3.0, 2.0, 1.5):
        hub.update_scalar('train/loss', value)
    hub.update_info('best_score', np.float64(0.25))
    hub.update_info('counts', np.arange(3))
    torch.save(message_hub_to_plain(hub.state_dict()), tmp_path / 'hub.pth')
    state = plain_to_message_hub(torch.load(tmp_path / 'hub.pth', weights_only=True))
    restored = MessageHub.get_instance('restored')
    restored.load_state_dict(state)
    assert restored.get_scalar('train/loss').mean() == hub.get_scalar('train/loss').mean()
    assert restored.get_info('best_score') == 0.25
    assert restored.get_info('counts') == [0, 1, 2]


def test_a_checkpoint_of_stock_mmengine_loads_without_running_code(tmp_path):
    hub = MessageHub.get_instance('stock')
    hub.update_scalar('train/loss', 2.0)
    torch.save(dict(state_dict={}, message_hub=hub.state_dict()), tmp_path / 'stock.pth')
    checkpoint = read_checkpoint(tmp_path / 'stock.pth')
    assert plain_to_message_hub(checkpoint['message_hub'])['log_scalars']['train/loss'].mean() == 2.0


def test_weights_alone_cannot_be_resumed():
    with pytest.raises(UserError, match=r'it holds weights only; resume from epoch_<n>\.pth'):
        check_resumable(dict(state_dict={}, meta=dict(epoch=1, iter=2)), 'best_epoch_1.pth')


def test_fine_tuning_takes_what_fits_and_refuses_what_does_not_at_all():
    model = nn.Linear(3, 2)
    assert starting_weights(model, dict(state_dict=nn.Linear(4, 2).state_dict()), 'a.pth').keys() == {'bias'}
    with pytest.raises(UserError, match='none of its tensors fits'):
        starting_weights(model, dict(state_dict=nn.Conv2d(1, 5, 3).state_dict()), 'a.pth')


def test_each_stage_of_a_cascade_starts_from_the_one_head_of_another_model():
    class Model(nn.Module):
        def __init__(self, head):
            super().__init__()
            self.roi_head = nn.ModuleDict({'bbox_head': head})

    def head(classes):
        return nn.ModuleDict({'shared': nn.Linear(3, 2), 'fc_cls': nn.Linear(2, classes)})

    single, cascade = Model(head(1)), Model(nn.ModuleList([head(4), head(4)]))
    taken = starting_weights(cascade, dict(state_dict=single.state_dict()), 'a.pth')
    assert set(taken) == {f'roi_head.bbox_head.{head}.shared.{part}' for head in (0, 1) for part in ('weight', 'bias')}
    for name, tensor in taken.items():
        assert torch.equal(tensor, single.state_dict()[name.replace('.0.', '.').replace('.1.', '.')])
    # Of another cascade each stage takes its own, and nothing where that does not fit.
    other = Model(nn.ModuleList([head(4), head(3)]))
    own = starting_weights(cascade, dict(state_dict=other.state_dict()), 'a.pth')
    lacking = set(cascade.state_dict()) - set(own)
    assert lacking == {f'roi_head.bbox_head.1.fc_cls.{part}' for part in ('weight', 'bias')}


def test_no_damage_ends_in_a_traceback(tmp_path):
    torch.save(dict(state_dict=nn.Linear(9, 9).state_dict(), meta=dict(epoch=1)), tmp_path / 'a.pth')
    content = (tmp_path / 'a.pth').read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(content)
        for place in rng.integers(len(content), size=8):
            damaged[place] ^= rng.integers(1, 256)
        (tmp_path / 'b.pth').write_bytes(damaged[:rng.integers(1, len(content))] if rng.random() < 0.3 else damaged)
        try:
            assert isinstance(read_checkpoint(tmp_path / 'b.pth')['state_dict'], dict)
        except UserError:
            refused += 1
    assert refused > 20
