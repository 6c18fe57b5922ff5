import multiprocessing
from math import prod
from statistics import median

import pytest
import torch
from conftest import TINY_CONFIG
from torch import nn

from cellseg_mm.engine import model_cost
from cellseg_mm.engine.config import load_config
from cellseg_mm.engine.model_cost import count_flops, measure_costs
from cellseg_mm.errors import UserError
from cellseg_mm.io.image import read_image

from mmcv.ops import DeformConv2d, ModulatedDeformConv2dPack  # isort: skip (after cellseg_mm)
from mmdet.registry import MODELS  # isort: skip (after cellseg_mm)
from mmdet.structures import DetDataSample  # isort: skip (after cellseg_mm)
from mmdet.utils import register_all_modules  # isort: skip (after cellseg_mm)
from mmengine import Config  # isort: skip (after cellseg_mm)


@pytest.fixture(scope='module')
def measured(tiny_data, tmp_path_factory):
    """A tiny model, the three that are measured, and what was found."""
    folder, config = tmp_path_factory.mktemp('models'), load_config(TINY_CONFIG)
    register_all_modules()
    model = MODELS.build(config.model)
    model.init_weights()
    torch.save({'state_dict': model.state_dict()}, folder / 'own.pth')
    torch.save({'state_dict': nn.Linear(2, 2).state_dict()}, folder / 'other.pth')
    (folder / 'dead.py').write_text('import os\nos._exit(9)\n')
    models = [('other weights', config, folder / 'other.pth'), ('own weights', config, folder / 'own.pth'),
              ('dead', folder / 'dead.py', None)]
    return model.eval(), models, measure_costs(models, sorted(tiny_data.glob('test_release/*')), rounds=2)


def test_a_cost_has_all_that_is_asked(measured):
    model, models, costs = measured
    assert list(costs) == [name for name, _, _ in models]
    cost = costs['own weights']
    assert cost['parameters'] == sum(parameter.numel() for parameter in model.parameters())
    assert len(cost['seconds']) == 2
    assert min(cost['seconds']) > 0
    assert cost['images_per_second'] == 1 / median(cost['seconds'])
    assert 10 < cost['peak_memory_mb'] < 5000
    threads = torch.get_num_threads()
    assert cost['device'] == (torch.cuda.get_device_name() if torch.cuda.is_available() else
                              'CPU, 1 thread' if threads == 1 else f'CPU, {threads} threads')


def test_operations_are_those_of_the_layers_as_they_ran_on_the_image_of_median_size(measured, tiny_data):
    model, _, costs = measured
    counted, by_size = [], []

    def count(layer, inputs, output):
        if isinstance(layer, nn.Linear):
            counted.append(output.numel() * layer.in_features)
        else:  # what each place is multiplied with: of the output, or of the input
            places = inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output
            counted.append(places.numel() * layer.weight[0].numel())

    hooks = [layer.register_forward_hook(count) for layer in model.modules()
             if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)]
    for path in tiny_data.glob('test_release/*'):
        counted.clear()
        image = torch.from_numpy(read_image(path)).permute(2, 0, 1)
        size = tuple(image.shape[1:])
        sample = DetDataSample(metainfo=dict(img_id=0, ori_shape=size, img_shape=size, scale_factor=(1, 1)))
        with torch.no_grad():
            sample, = model.test_step({'inputs': [image], 'data_samples': [sample]})
        by_size.append((list(sample.batch_input_shape), sum(counted)))
    for hook in hooks:
        hook.remove()
    cost = costs['own weights']
    assert cost['input_size'] == sorted((size for size, _ in by_size), key=prod)[1]
    # Of images of that size, one.
    assert round(1e9 * cost['gflops']) in [total for size, total in by_size if size == cost['input_size']]


def test_a_model_without_weights_is_measured_with_random_ones(tiny_data):
    predictor = model_cost._Predictor(str(TINY_CONFIG), None)
    assert predictor.predict(str(next(tiny_data.glob('test_release/*')))) > 0
    assert predictor.cost()['gflops'] > 0


def test_a_model_that_fails_is_told_and_the_others_go_on(measured):
    _, _, costs = measured
    assert 'the checkpoint is of another model' in costs['other weights']['problem']
    assert costs['dead'] == {'problem': 'the process that measured its cost died, perhaps for lack of memory'}
    assert 'problem' not in costs['own weights']


def test_no_process_is_left(measured):
    assert not multiprocessing.active_children()


class Fake:
    """A model's process that answers at once: the number of questions so far, or what `answers` has."""

    log, ended, answers = [], [], {}

    def __init__(self, config, *_):
        self.name = config

    def ask(self, message):
        self.log.append((self.name, message))
        answer = self.answers.get((self.name, self.log.count((self.name, message)), message))
        if isinstance(answer, BaseException):
            raise answer
        return answer or ({'gflops': 1.0} if message == 'count' else float(len(self.log)))

    def end(self):
        self.ended.append(self.name)


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(model_cost, '_Worker', Fake)
    Fake.log, Fake.ended, Fake.answers = [], [], {}
    return Fake


def test_models_take_turns_so_that_noise_hits_all_alike(fake):
    costs = measure_costs([('x', 'a', None), ('y', 'b', None)], ['1.tif'], rounds=3)
    assert fake.log == [('a', 'load'), ('b', 'load'), *[('a', 'predict'), ('b', 'predict')] * 3,
                        ('a', 'count'), ('b', 'count')]
    assert costs['y'] == {'gflops': 1.0, 'seconds': [4.0, 6.0, 8.0], 'images_per_second': 1 / 6}
    assert sorted(fake.ended) == ['a', 'b']


def test_a_model_that_fails_in_a_later_round_is_left_out_of_the_next(fake):
    fake.answers = {('a', 2, 'predict'): {'problem': 'broken'}}
    costs = measure_costs([('x', 'a', None), ('y', 'b', None)], ['1.tif'], rounds=3)
    assert costs['x'] == {'problem': 'broken'}
    assert len(costs['y']['seconds']) == 3
    assert fake.log.count(('a', 'predict')) == 2


def test_an_interrupt_ends_all_processes(fake):
    fake.answers = {('b', 1, 'predict'): KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        measure_costs([('x', 'a', None), ('y', 'b', None)], ['1.tif'])
    assert sorted(fake.ended) == ['a', 'b']


def test_no_image_is_an_error():
    with pytest.raises(UserError, match='no image'):
        measure_costs([], [])


def test_multiply_adds_of_convolutions_count_as_one():
    assert count_flops(nn.Conv2d(3, 8, 3, padding=1), torch.zeros(2, 3, 10, 12)) == 2 * 8 * 3 * 9 * 10 * 12
    assert count_flops(nn.Conv2d(4, 8, 3, groups=2), torch.zeros(1, 4, 10, 12)) == 8 * 2 * 9 * 8 * 10
    assert count_flops(nn.ConvTranspose2d(4, 8, 2, 2), torch.zeros(1, 4, 5, 6)) == 4 * 8 * 4 * 5 * 6
    assert count_flops(nn.Linear(5, 7), torch.zeros(2, 3, 5)) == 2 * 3 * 5 * 7


def test_deformable_convolutions_count_as_convolutions():
    image, offset = torch.zeros(2, 4, 10, 12), torch.zeros(2, 18, 10, 12)
    own = 2 * 8 * 4 * 9 * 10 * 12
    assert count_flops(DeformConv2d(4, 8, 3, padding=1), image, offset) == own
    # With a convolution that predicts 27 offsets and weights of each place.
    assert count_flops(ModulatedDeformConv2dPack(4, 8, 3, padding=1), image) == own + 2 * 27 * 4 * 9 * 10 * 12


@pytest.mark.parametrize('batch_first', [False, True])
def test_attention_counts_its_projections_and_its_products(batch_first):
    attention = nn.MultiheadAttention(16, 4, batch_first=batch_first).eval()
    tokens = torch.zeros(7, 7, 16)
    projections, products = 4 * 7 * 7 * 16 * 16, 2 * 7 * 7 * 7 * 16
    assert count_flops(attention, tokens, tokens, tokens) == projections + products
    assert count_flops(lambda x: attention(x, x, x, need_weights=False), tokens) == projections + products
    encoder = nn.TransformerEncoderLayer(16, 4, 32, batch_first=batch_first).eval()
    assert count_flops(encoder, tokens) == projections + products + 2 * 7 * 7 * 16 * 32
    assert torch.backends.mha.get_fastpath_enabled()


def test_products_in_place_are_counted_too():
    product = torch.zeros(3, 5)
    assert count_flops(product.addmm_, torch.zeros(3, 4), torch.zeros(4, 5)) == 3 * 4 * 5
    product = torch.zeros(2, 3, 5)
    assert count_flops(product.baddbmm_, torch.zeros(2, 3, 4), torch.zeros(2, 4, 5)) == 2 * 3 * 4 * 5


def test_known_models_have_their_known_figures():
    """On the meta device, which computes nothing: ResNet-50 has 4.1 GFLOPs, Mask R-CNN by MMDetection's tool 260."""
    register_all_modules()
    config = Config.fromstring("_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'", '.py').model
    config.backbone.init_cfg = None
    with torch.device('meta'):
        model = MODELS.build(config).eval()
        assert count_flops(model.backbone, torch.zeros(1, 3, 224, 224)) / 1e9 == pytest.approx(4.1, abs=0.05)

        def predict(image, boxes, masks):
            model.rpn_head(model.extract_feat(image))
            model.roi_head.bbox_head(boxes)
            model.roi_head.mask_head(masks)

        found = count_flops(predict, torch.zeros(1, 3, 800, 1280), torch.zeros(1000, 256, 7, 7),
                            torch.zeros(100, 256, 14, 14))
    assert found / 1e9 == pytest.approx(260, rel=0.03)
