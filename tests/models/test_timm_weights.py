import re

import pytest
import timm
import torch
from safetensors.torch import save_file

from cellseg_mm.errors import UserError
from cellseg_mm.models.backbones import timm_weights
from cellseg_mm.models.backbones.timm_backbone import TimmBackbone
from cellseg_mm.models.backbones.timm_weights import (
    match_weights,
    normalisation,
    normalisation_mismatch,
    read_weights,
    weights_file,
    weights_licence,
)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Empty caches of PyTorch and of huggingface_hub; the former's folder."""
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path / 'hf'))
    folder = tmp_path / 'hub/checkpoints'
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(scope='module')
def convnext():
    torch.manual_seed(1)
    return timm.create_model('test_convnext')


def original_names(weights):
    """ConvNeXt's tensors as its authors named them."""
    renamed = {}
    for name, value in weights.items():
        name = re.sub(r'^stem\.', 'downsample_layers.0.', name)
        name = re.sub(r'^stages\.(\d)\.downsample\.', r'downsample_layers.\1.', name)
        name = name.replace('.blocks.', '.').replace('conv_dw', 'dwconv').replace('mlp.fc', 'pwconv')
        renamed[name.replace('head.norm.', 'norm.').replace('head.fc.', 'head.')] = value
    return renamed


def loads_completely(path, model, **options):
    """Whether a backbone takes the weights of that file, all of them."""
    torch.manual_seed(2)
    backbone = TimmBackbone('test_convnext', init_cfg=dict(type='Pretrained', checkpoint=str(path), **options))
    backbone.init_weights()
    expected = {timm_weights.canonical(name): value for name, value in model.state_dict().items()}
    return all(torch.equal(value, expected[timm_weights.canonical(name)])
               for name, value in backbone.model.state_dict().items())


@pytest.mark.parametrize('form', [
    lambda weights: weights,
    lambda weights: dict(state_dict=weights, epoch=3),
    lambda weights: dict(model=weights),
    lambda weights: dict(model_ema=weights, model={}),
    lambda weights: {f'module.{name}': value for name, value in weights.items()},
    lambda weights: {name: value for name, value in weights.items() if not name.startswith('head.')},
    original_names,
    lambda weights: dict(model=original_names(weights)),
])
def test_weights_load_from_files_of_every_usual_form(form, convnext, tmp_path):
    torch.save(form(convnext.state_dict()), tmp_path / 'weights.pth')
    assert loads_completely(tmp_path / 'weights.pth', convnext)


def test_weights_load_from_safetensors(convnext, tmp_path):
    save_file(convnext.state_dict(), tmp_path / 'weights.safetensors')
    assert loads_completely(tmp_path / 'weights.safetensors', convnext)


def test_weights_load_from_an_address(convnext, tmp_path, hub):
    torch.save(convnext.state_dict(), tmp_path / 'there.pth')
    assert loads_completely((tmp_path / 'there.pth').as_uri(), convnext)
    assert (hub / 'there.pth').is_file()


def test_a_backbone_is_taken_out_of_a_detector(convnext, tmp_path):
    backbone = TimmBackbone('test_convnext')
    backbone.model.load_state_dict(match_weights(backbone.model, 'test_convnext', convnext.state_dict()).loaded)
    torch.save(dict(state_dict={f'backbone.{name}': value for name, value in backbone.state_dict().items()}),
               tmp_path / 'detector.pth')
    for prefix in ('backbone', 'backbone.'):
        assert loads_completely(tmp_path / 'detector.pth', convnext, prefix=prefix)


def test_swin_is_read_as_its_authors_named_it():
    weights = {}
    for name, value in timm.create_model('swin_tiny_patch4_window7_224').state_dict().items():
        name = re.sub(r'layers\.(\d)\.downsample', lambda found: f'layers.{int(found[1]) - 1}.downsample', name)
        weights[name.replace('head.fc.', 'head.')] = value
    backbone = TimmBackbone('swin_tiny_patch4_window7_224')
    match = match_weights(backbone.model, 'swin_tiny_patch4_window7_224', weights)
    assert len(match.loaded) == len(backbone.model.state_dict())
    assert match.missing == match.unexpected == match.mismatched == []
    assert torch.equal(match.loaded['layers_1.downsample.reduction.weight'],
                       weights['layers.0.downsample.reduction.weight'])


def test_what_does_not_fit_is_counted_and_named(convnext):
    weights = dict(convnext.state_dict(), other=torch.zeros(1))
    weights['stem.0.bias'] = torch.zeros(7)
    del weights['stem.1.bias']
    backbone = TimmBackbone('test_convnext')
    match = match_weights(backbone.model, 'test_convnext', weights)
    assert match.missing == ['stem_1.bias']
    assert match.mismatched == ['stem_0.bias']
    assert match.unexpected == ['other']
    count = len(backbone.model.state_dict())
    assert str(match) == (f'{count - 2} of {count} tensors loaded; 1 missing, such as stem_1.bias; 1 of another '
                          'shape, such as stem_0.bias; 1 left over, such as other')


def test_weights_of_another_model_are_refused_by_name(tmp_path):
    save_file(timm.create_model('test_resnet').state_dict(), tmp_path / 'resnet.safetensors')
    for name in ('test_convnext', 'swin_tiny_patch4_window7_224'):
        init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'resnet.safetensors'))
        with pytest.raises(UserError, match=r'resnet\.safetensors: \d+ of the \d+ tensors of the backbone are not in'):
            TimmBackbone(name, init_cfg=init_cfg).init_weights()


def test_a_file_that_would_run_code_or_is_none_of_weights_is_refused(tmp_path):

    class RunsCode:
        def __reduce__(self):
            return print, ('run', )

    torch.save(dict(state_dict=RunsCode()), tmp_path / 'evil.pth')
    with pytest.raises(UserError, match=r'evil\.pth: refused, since loading it would run code'):
        read_weights(tmp_path / 'evil.pth')
    for name in ('text.pth', 'text.safetensors'):
        (tmp_path / name).write_text('no weights')
        with pytest.raises(UserError, match='these are not weights, or a damaged file'):
            read_weights(tmp_path / name)
    torch.save([1, 2], tmp_path / 'list.pth')
    with pytest.raises(UserError, match='these are not weights'):
        read_weights(tmp_path / 'list.pth')
    with pytest.raises(UserError, match='the pretrained weights are missing; put the file there'):
        read_weights(tmp_path / 'none.pth')


def test_timms_weights_are_found_where_the_user_put_them(convnext, hub):
    target = hub / 'test_convnext.r160_in1k.safetensors'
    save_file(convnext.state_dict(), target)
    assert weights_file('test_convnext') == weights_file('test_convnext.r160_in1k') == target
    backbone = TimmBackbone('test_convnext', init_cfg=dict(type='Timm'))
    backbone.init_weights()
    assert torch.equal(backbone.model['stem_0'].weight, convnext.stem[0].weight)


def test_timms_weights_are_found_in_the_cache_of_the_hub(tmp_path, hub):
    snapshot = tmp_path / 'hf/models--timm--test_convnext.r160_in1k/snapshots/abc'
    snapshot.mkdir(parents=True)
    (snapshot / 'model.safetensors').touch()
    (snapshot.parents[1] / 'refs').mkdir()
    (snapshot.parents[1] / 'refs/main').write_text('abc')
    assert weights_file('test_convnext') == snapshot / 'model.safetensors'


def test_timms_weights_are_downloaded_once(convnext, tmp_path, hub, monkeypatch):
    save_file(convnext.state_dict(), tmp_path / 'model.safetensors')
    monkeypatch.setattr(timm_weights, 'hf_hub_url', lambda *_, **__: (tmp_path / 'model.safetensors').as_uri())
    path = weights_file('test_convnext')
    assert path == hub / 'test_convnext.r160_in1k.safetensors'
    (tmp_path / 'model.safetensors').unlink()
    assert weights_file('test_convnext') == path
    assert read_weights(path).keys() == convnext.state_dict().keys()


def test_timms_weights_out_of_reach_say_which_file_to_put_where(hub, monkeypatch):
    def no_network(url, target):
        raise OSError(f'{target} is out of reach')

    monkeypatch.setattr(timm_weights, 'download', no_network)
    with pytest.raises(UserError) as caught:
        TimmBackbone('test_convnext', init_cfg=dict(type='Timm')).init_weights()
    message = str(caught.value)
    assert '/timm/test_convnext.r160_in1k/resolve/main/model.safetensors: the pretrained weights could not' in message
    assert f'put that file at {hub / "test_convnext.r160_in1k.safetensors"}, or train' in message
    assert '\n' not in message
    with pytest.raises(UserError, match=r'/gcvit_tiny_224_\S+\.pth: the .* put that file at \S+/checkpoints/gcvit'):
        weights_file('gcvit_tiny')


def test_a_model_without_weights_is_named(hub):
    with pytest.raises(UserError, match='coatnet_0_224: timm has no pretrained weights for it; set init_cfg=None'):
        weights_file('coatnet_0_224')


def test_colours_are_the_models_own():
    assert normalisation('convnext_tiny') == ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    assert normalisation('tf_efficientnet_lite0') == ([127.5] * 3, [127.5] * 3)


def test_colours_of_another_model_are_told_with_the_remedy():
    imagenet = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
    assert normalisation_mismatch('convnext_tiny', imagenet) is None
    assert normalisation_mismatch('tf_efficientnet_lite0', dict(imagenet, mean=[127.5] * 3, std=[127.5] * 3)) is None
    assert normalisation_mismatch('tf_efficientnet_lite0', imagenet) == (
        'data_preprocessor.mean is [123.675, 116.28, 103.53], tf_efficientnet_lite0 was pretrained with '
        '[127.5, 127.5, 127.5]; set data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5], '
        'bgr_to_rgb=True)')
    assert 'std is [1.0, 1.0, 1.0]' in normalisation_mismatch('convnext_tiny', dict(imagenet, std=[1.0] * 3))
    assert 'mean is None' in normalisation_mismatch('convnext_tiny', {})
    assert 'bgr_to_rgb is off' in normalisation_mismatch('convnext_tiny', dict(imagenet, bgr_to_rgb=False))


def test_licences_are_those_that_timm_names():
    assert weights_licence('convnextv2_base') == 'cc-by-nc-4.0'
    assert weights_licence('convnext_tiny.in12k_ft_in1k') == 'apache-2.0'
    assert weights_licence('swin_tiny_patch4_window7_224.ms_in1k') == 'mit'
    assert weights_licence('cpubone_b0_bfrobust.r224_in1k') == 'unknown'
