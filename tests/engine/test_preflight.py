import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import timm
import torch
from mmdet.registry import MODELS
from safetensors.torch import save_file

from cellseg_mm.engine import testing
from cellseg_mm.engine.preflight import canvas_parts, check_data, check_work_dir, drop_pretrained, fetch_pretrained
from cellseg_mm.errors import UserError


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    return tmp_path / 'hub/checkpoints'


def pretrained(config, checkpoint):
    config.model.backbone = dict(type='ResNet', depth=50, init_cfg=dict(type='Pretrained', checkpoint=checkpoint))
    return config


def test_prepared_data_pass(tiny_config):
    check_data(tiny_config, ('train', 'val', 'test'))


def test_a_missing_data_root_is_named(tiny_config, tmp_path):
    tiny_config.data_root = str(tmp_path / 'nowhere')
    with pytest.raises(UserError, match='nowhere: there is no such folder; set data_root'):
        check_data(tiny_config, ('train', ))


def test_data_without_annotations_send_the_user_to_prepare_data(tiny_config, tmp_path):
    tiny_config.data_root = str(tmp_path)
    with pytest.raises(UserError, match='no annotations yet; run: python tools/prepare_data'):
        check_data(tiny_config, ('train', ))


def test_other_classes_are_refused(tiny_config):
    tiny_config.classes = ('class2', 'class1', 'class3', 'class4')
    with pytest.raises(UserError, match='its classes are'):
        check_data(tiny_config, ('train', ))


@pytest.mark.parametrize(('images', 'message'), [([], 'no image in it'), (
    [dict(id=1, file_name='a.tif', height=4, width=4)], 'no cell in its 1 images')])
def test_an_empty_training_set_is_refused(tiny_config, tmp_path, images, message):
    (tmp_path / 'annotations').mkdir()
    (tmp_path / 'annotations/train.json').write_text(json.dumps(dict(
        images=images, annotations=[], categories=[dict(id=i, name=f'class{i}') for i in range(1, 5)])))
    tiny_config.data_root = str(tmp_path)
    with pytest.raises(UserError, match=message):
        check_data(tiny_config, ('train', ))


def test_annotations_that_are_no_json_are_refused(tiny_config, tmp_path):
    (tmp_path / 'annotations').mkdir()
    (tmp_path / 'annotations/train.json').write_text('{')
    tiny_config.data_root = str(tmp_path)
    with pytest.raises(UserError, match='this is not JSON; run'):
        check_data(tiny_config, ('train', ))


def test_parts_that_build_canvases_are_named_with_ours(tiny_config):
    tiny_config.model.type = 'mmdet.MaskRCNN'
    tiny_config.model.roi_head.mask_head.type = 'FCNMaskHead'
    tiny_config.model.train_cfg.rcnn.assigner.type = 'MaxIoUAssigner'
    tiny_config.model.train_cfg.rpn.assigner.type = 'DynamicSoftLabelAssigner'
    tiny_config.train_dataloader.dataset.pipeline[1].type = 'LoadAnnotations'
    assert canvas_parts(tiny_config) == {
        'model': ('MaskRCNN', 'CellMaskRCNN'),
        'model.roi_head.mask_head': ('FCNMaskHead', 'CellMaskHead'),
        'model.train_cfg.rcnn.assigner': ('MaxIoUAssigner', 'LocalMaxIoUAssigner'),
        'model.train_cfg.rpn.assigner': ('DynamicSoftLabelAssigner', 'LocalSoftLabelAssigner'),
        'train_dataloader.dataset.pipeline[1]': ('LoadAnnotations', 'LoadCellAnnotations')}


def test_testing_warns_of_parts_that_build_canvases(tiny_config, tmp_path):
    tiny_config.model.roi_head.mask_head.type = 'FCNMaskHead'
    torch.save(dict(state_dict=MODELS.build(tiny_config.model).state_dict()), tmp_path / 'weights.pth')
    testing._runner(tiny_config, tmp_path / 'weights.pth', tmp_path, 'none', 'val')
    log, = tmp_path.rglob('*.log')
    assert log.read_text().count('takes memory and time: use CellMaskHead for FCNMaskHead in the config') == 1


def test_a_work_dir_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match=r'cannot write there: .*--work-dir'):
        check_work_dir(tmp_path / 'file/work')


def test_a_disk_without_room_for_checkpoints_is_told_beforehand(tmp_path):
    with pytest.raises(UserError, match=r'MB free, checkpoints need 1000000000000 MB'):
        check_work_dir(tmp_path, needed_bytes=10**18)


def test_pretrained_weights_are_downloaded_once(tiny_config, tmp_path, hub):
    torch.save({}, tmp_path / 'weights.pth')
    config = pretrained(tiny_config, (tmp_path / 'weights.pth').as_uri())
    fetch_pretrained(config)
    assert (hub / 'weights.pth').read_bytes() == (tmp_path / 'weights.pth').read_bytes()
    (tmp_path / 'weights.pth').unlink()
    fetch_pretrained(config)


def test_pretrained_weights_out_of_reach_say_which_file_to_put_where(tiny_config, tmp_path, hub):
    url = (tmp_path / 'weights.pth').as_uri()
    with pytest.raises(UserError) as caught:
        fetch_pretrained(pretrained(tiny_config, url))
    message = str(caught.value)
    assert message.startswith(f'{url}: the pretrained weights could not be downloaded')
    assert f'put that file at {hub / "weights.pth"}, or train configs/cell_maskrcnn_lite.py' in message
    assert '\n' not in message
    assert not list(hub.glob('*'))


def test_torchvision_weights_are_named_by_their_address(tiny_config, hub, monkeypatch):
    def no_network(url, target):
        raise OSError(f'{target} is out of reach')

    monkeypatch.setattr('cellseg_mm.models.backbones.timm_weights.download', no_network)
    with pytest.raises(UserError, match=r'/models/resnet50-\w+\.pth: .* put that file at .*/resnet50-\w+\.pth, or'):
        fetch_pretrained(pretrained(tiny_config, 'torchvision://resnet50'))


def test_a_missing_local_file_of_weights_is_named(tiny_config):
    with pytest.raises(UserError, match=r'here\.pth: the pretrained weights are missing'):
        fetch_pretrained(pretrained(tiny_config, 'here.pth'))


@pytest.fixture
def serve():
    """Serve one answer on this machine: the bytes, and the length that is claimed for them."""
    servers = []

    def serve(content, length):

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):  # the server's name for it
                self.send_response(200)
                self.send_header('Content-Length', str(length))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments):
                """Say nothing."""

        server = HTTPServer(('127.0.0.1', 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f'http://127.0.0.1:{server.server_port}'

    yield serve
    for server in servers:
        server.shutdown()


def test_a_download_that_breaks_off_is_not_kept(tiny_config, hub, serve):
    with pytest.raises(UserError, match='could not be downloaded'):
        fetch_pretrained(pretrained(tiny_config, f'{serve(b"x" * 500, 100_000)}/weights.pth'))
    assert not list(hub.glob('*'))


def test_a_download_is_held_against_the_digest_in_its_name(tiny_config, hub, serve, tmp_path):
    torch.save({}, tmp_path / 'weights.pth')
    content = (tmp_path / 'weights.pth').read_bytes()
    server = serve(content, len(content))
    with pytest.raises(UserError, match='what came is not that file'):
        fetch_pretrained(pretrained(tiny_config, f'{server}/weights-0123abcd.pth'))
    name = f'weights-{hashlib.sha256(content).hexdigest()[:8]}.pth'
    fetch_pretrained(pretrained(tiny_config, f'{server}/{name}'))
    assert [path.name for path in hub.iterdir()] == [name]


def test_pretrained_weights_that_would_run_code_are_refused(tiny_config, tmp_path):

    class RunsCode:
        def __reduce__(self):
            return print, ('run', )

    torch.save(dict(state_dict=RunsCode()), tmp_path / 'evil.pth')
    with pytest.raises(UserError, match='would run code'):
        fetch_pretrained(pretrained(tiny_config, str(tmp_path / 'evil.pth')))


def test_an_unknown_name_of_torchvision_is_an_error(tiny_config):
    with pytest.raises(UserError, match='torchvision has no weights of that name'):
        fetch_pretrained(pretrained(tiny_config, 'torchvision://resnet5'))


def test_pretrained_weights_are_dropped_at_any_depth_and_others_kept(tiny_config):
    config = pretrained(tiny_config, 'none.pth')
    config.model.neck.init_cfg = [dict(type='Xavier', layer='Conv2d'), dict(type='Pretrained', checkpoint='none.pth')]
    drop_pretrained(config.model)
    fetch_pretrained(config)
    assert config.model.backbone.init_cfg is None
    assert [one.type for one in config.model.neck.init_cfg] == ['Xavier']


def test_a_missing_file_of_timms_weights_is_told_before_the_training(tiny_config, tmp_path, hub, monkeypatch):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path / 'hf'))
    tiny_config.model.backbone = dict(type='TimmBackbone', model_name='test_convnext', init_cfg=dict(type='Timm'))
    with monkeypatch.context() as patch:
        patch.setattr('cellseg_mm.models.backbones.timm_weights.hf_hub_url',
                      lambda *_, **__: (tmp_path / 'nowhere.safetensors').as_uri())
        with pytest.raises(UserError, match=r'put that file at \S+/test_convnext\.r160_in1k\.safetensors, or train'):
            fetch_pretrained(tiny_config)
    hub.mkdir(parents=True)
    save_file(timm.create_model('test_convnext').state_dict(), hub / 'test_convnext.r160_in1k.safetensors')
    fetch_pretrained(tiny_config)
    drop_pretrained(tiny_config.model)
    assert tiny_config.model.backbone.init_cfg is None


def test_names_of_openmmlabs_weights_are_addresses_too(tiny_config, hub, monkeypatch):
    def no_network(url, target):
        raise OSError(f'{target} is out of reach')

    monkeypatch.setattr('cellseg_mm.models.backbones.timm_weights.download', no_network)
    with pytest.raises(UserError, match=r'^https://\S+/resnext101_64x4d-\w+\.pth: .* put that file at '):
        fetch_pretrained(pretrained(tiny_config, 'open-mmlab://resnext101_64x4d'))
    with pytest.raises(UserError, match='OpenMMLab has no weights of that name'):
        fetch_pretrained(pretrained(tiny_config, 'open-mmlab://resnext'))
