"""Configs inside checkpoints are data, unless they are trusted."""
from pathlib import Path

import pytest
from mmengine.config import Config

from cellseg_mm.engine.config import load_config
from cellseg_mm.errors import UserError
from cellseg_mm.models.embedded_config import embedded_config

CONFIGS = sorted(path for path in Path(__file__).parents[2].glob('configs/*.py'))
MODEL = "model=dict(type='CellMaskRCNN', {})\n"


def holding(text):
    return {'state_dict': {}, 'meta': {'cfg': text}}


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_read_as_it_was_written(path):
    config = load_config(path)
    found = embedded_config(holding(config.pretty_text), 'a.pth')
    assert found.test_dataloader == config.test_dataloader
    assert found.model == without_weights(config.model)


def without_weights(node):
    if isinstance(node, dict):
        return {key: without_weights(value) for key, value in node.items() if key not in ('init_cfg', 'pretrained')}
    return type(node)(map(without_weights, node)) if isinstance(node, (list, tuple)) else node


@pytest.mark.parametrize('text', [
    "import os\nos.system('touch {}')\n",
    "a = open('{}', 'w')\n",
    'a = [].__class__\n',
    "a = f'{{open(1)}}'\n",
    'a = dict([(1, 2)])\n',
    'a = dict(**dict(b=1))\n',
    "a = (lambda: open('{}', 'w'))()\n",
    "a = [open('{}', 'w') for b in (1, )]\n",
    'a.b = 1\n',
    'if True:\n    a = 1\n',
    'a = ' + '[' * 3000 + ']' * 3000 + '\n',
], ids=range(11))
def test_code_is_refused(text, tmp_path):
    written = tmp_path / 'written'
    with pytest.raises(UserError, match=r'is code, not only settings.*--trust-checkpoint'):
        embedded_config(holding(text.replace('{}', str(written)) + MODEL.format('')), 'a.pth')
    assert not written.exists()


@pytest.mark.parametrize(('parts', 'refused'), [
    ("backbone=dict(type='os.system')", 'os.system'),
    ("backbone=dict(type='mmengine.load', file='a.pkl')", 'mmengine.load'),
    ("backbone=dict(type='KnowledgeDistillationSingleStageDetector', teacher_ckpt='a.pth')",
     'KnowledgeDistillationSingleStageDetector'),
    ("""test_cfg=dict(rcnn=dict(nms=dict(type="__import__('os')")))""", "__import__('os')"),
    ('neck=[dict(type=dict(a=1))]', "{'a': 1}"),
    ("""rpn_head=dict(bbox_coder=dict(type='CameraMotionCompensation', warp_mode="__import__('os')"))""",
     'CameraMotionCompensation'),  # which evaluates it
    ("rpn_head=dict(bbox_coder=dict(type='AppearanceFreeLink', checkpoint='a.pth'))", 'AppearanceFreeLink'),
    ("backbone=dict(type='BertModel', name='https://example.org')", 'BertModel'),
    ("backbone=dict(type='ResNet', _scope_='others')", 'others'),
])
def test_parts_that_no_registry_has_are_refused(parts, refused):
    with pytest.raises(UserError) as caught:
        embedded_config(holding(MODEL.format(parts)), 'a.pth')
    assert f'its config builds a {refused}, which is not known here' in str(caught.value)


@pytest.mark.parametrize('kind', ['FasterRCNN', 'KnowledgeDistillationSingleStageDetector', 'os.system', None])
def test_other_models_are_refused(kind):
    with pytest.raises(UserError, match=f'builds a {kind}, no instance segmentation model known here'):
        embedded_config(holding(f'model=dict(type={kind!r})'), 'a.pth')


def test_modules_of_others_are_imported_if_trusted_only(tmp_path, monkeypatch):
    (tmp_path / 'my_heads_of_a_test.py').write_text('')
    monkeypatch.syspath_prepend(tmp_path)
    checkpoint = holding("custom_imports=dict(imports=['my_heads_of_a_test'])\n" + MODEL.format('a=1'))
    with pytest.raises(UserError, match=r'imports .*my_heads_of_a_test.*; if you trust'):
        embedded_config(checkpoint, 'a.pth')
    assert isinstance(embedded_config(checkpoint, 'a.pth', trusted=True), Config)


@pytest.mark.parametrize(('text', 'told'), [
    ('a = 1 / 0\n', 'the config in it fails: ZeroDivisionError: division by zero; give the config file by --config'),
    ('a = (\n', 'the config in it fails: SyntaxError: '),
    ("custom_imports = dict(imports=['no_such_module'])\n", 'the config in it fails: ImportError: Failed to import'),
    ('custom_imports = 3\n', 'the config in it fails: TypeError: '),
])
def test_trusted_code_that_fails_is_told_in_a_line(text, told):
    with pytest.raises(UserError) as caught:
        embedded_config(holding(text), 'a.pth', trusted=True)
    assert str(caught.value).startswith(f'a.pth: {told}')
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('name', ['text', 'filename', 'pretty_text', 'env_variables'])
def test_settings_of_names_that_mmengine_reserves_are_told(name):
    with pytest.raises(UserError, match=f'the config in it is none: {name} is reserved'):
        embedded_config(holding(f'{name} = 1\n' + MODEL.format('a=1')), 'a.pth')


def test_weights_to_start_from_are_left_out():
    found = embedded_config(holding(MODEL.format(
        "backbone=dict(type='ResNet', init_cfg=dict(type='Pretrained', checkpoint='https://example.org/a.pth')),"
        "pretrained='https://example.org/b.pth'")), 'a.pth')
    assert 'example.org' not in found.pretty_text


@pytest.mark.parametrize('checkpoint', [{'state_dict': {}}, holding(None)])
def test_a_checkpoint_without_a_config_says_what_to_give(checkpoint):
    with pytest.raises(UserError, match='does not hold its config; give the config file by --config'):
        embedded_config(checkpoint, 'a.pth')
