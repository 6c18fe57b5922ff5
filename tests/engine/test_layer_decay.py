import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from cellseg_mm.engine.layer_decay import LayerDecayConstructor
from cellseg_mm.errors import UserError
from cellseg_mm.models.backbones.timm_backbone import TimmBackbone
from cellseg_mm.models.backbones.timm_weights import canonical

LR = 0.01


class Detector(nn.Module):
    def __init__(self, name='test_convnext', **options):
        super().__init__()
        self.backbone = TimmBackbone(name, **options)
        self.head = nn.Linear(4, 4)


def optim_wrapper(model, paramwise=dict(decay_rate=0.5), **optimizer):  # noqa: B006 -- read only
    optimizer = dict(type='AdamW', lr=LR, weight_decay=0.1) | optimizer
    return LayerDecayConstructor(dict(optimizer=optimizer), paramwise)(model)


def settings(model, **options):
    """Learning rate and weight decay of each parameter, by its name; each is in one group, once."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [(names[id(parameter)], (group['lr'], group['weight_decay']))
             for group in optim_wrapper(model, **options).optimizer.param_groups for parameter in group['params']]
    assert len(found) == len(dict(found))
    return dict(found)


@pytest.mark.parametrize('name', ['test_convnext', 'test_resnet', 'test_efficientnet', 'test_mambaout'])
def test_every_parameter_is_trained_once_and_earlier_layers_more_slowly(name):
    model = Detector(name)
    found = settings(model)
    assert found.keys() == dict(model.named_parameters()).keys()
    rates = [found[f'backbone.model.{key}'][0] for key, _ in model.backbone.model.named_parameters()]
    assert rates[0] == min(rates) < rates[-1] == max(rates) < LR
    assert found['head.weight'] == (LR, 0.1)


@pytest.mark.parametrize('name', ['test_convnext', 'test_resnet', 'test_efficientnet', 'test_vit'])
def test_rates_and_weight_decays_are_those_timm_gives_its_whole_model(name):
    whole = timm.create_model(name)
    fixed = whole.no_weight_decay() if name == 'test_vit' else ()
    by_id = {id(value): (LR * group['lr_scale'], group['weight_decay'])
             for group in param_groups_layer_decay(whole, 0.1, fixed, layer_decay=0.5) for value in group['params']}
    expected = {canonical(key): by_id[id(value)] for key, value in whole.named_parameters()}
    model = Detector(name, strides=(16, ))
    found = settings(model)
    for key, _ in model.backbone.model.named_parameters():
        assert found[f'backbone.model.{key}'] == expected[canonical(key)]


def test_norms_and_biases_have_no_weight_decay():
    model = Detector(out_norm=True)
    found = settings(model)
    assert all((found[name][1] == 0) == (parameter.ndim == 1) for name, parameter in model.named_parameters())
    assert found['backbone.norms.0.weight'] == (LR, 0)


def test_tables_of_positions_have_no_weight_decay():
    found = settings(Detector('swin_tiny_patch4_window7_224'))
    tables = [decay for name, (_, decay) in found.items() if 'relative_position_bias_table' in name]
    assert tables == [0] * 12


def test_frozen_parameters_are_left_out():
    model = Detector(frozen_stages=1)
    assert settings(model).keys() == {name for name, value in model.named_parameters() if value.requires_grad}


def test_the_rate_in_the_log_is_the_configs():
    assert optim_wrapper(Detector()).get_lr()['lr'][0] == LR


def test_an_optimizer_without_weight_decay_gets_none():
    wrapper = LayerDecayConstructor(dict(optimizer=dict(type='SGD', lr=LR)), dict(decay_rate=0.9))(Detector())
    assert {group['weight_decay'] for group in wrapper.optimizer.param_groups} == {0}


def test_a_step_moves_later_layers_further():
    torch.manual_seed(0)
    model = Detector('test_resnet')
    before = {name: value.clone() for name, value in model.named_parameters()}
    wrapper = optim_wrapper(model, weight_decay=0.0)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    wrapper.step()
    moved = {name: (before[name] - value).abs().mean().item() for name, value in model.named_parameters()}
    first, last = moved['backbone.model.conv1.0.weight'], moved['backbone.model.layer4.0.conv1.weight']
    assert moved['head.weight'] == pytest.approx(LR, rel=1e-3)
    assert last == pytest.approx(LR / 2, rel=1e-3)
    assert first == pytest.approx(LR / 32, rel=1e-3)


@pytest.mark.parametrize(('paramwise', 'message'), [
    (dict(decay_rate=1.5), 'takes decay_rate alone, above 0 and up to 1'), (dict(decay_rate='x'), 'takes decay_rate'),
    (dict(decay_rate=0.9, norm_decay_mult=0.0), 'takes decay_rate alone'), (None, 'takes decay_rate alone')])
def test_other_settings_are_refused(paramwise, message):
    with pytest.raises(UserError, match=message):
        optim_wrapper(Detector(), paramwise)


def test_an_optimizer_without_a_rate_is_refused():
    with pytest.raises(UserError, match='lowers lr, which it does not set'):
        optim_wrapper(Detector(), lr=None)


def test_a_model_without_such_a_backbone_is_refused():
    with pytest.raises(UserError, match='the model has none; leave out constructor'):
        optim_wrapper(nn.Linear(2, 2))
