"""What the project's configs and those of the ablation are built from, each hours of training."""
import pytest
from conftest import REPOSITORY
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from torch import nn

import cellseg_mm.register  # noqa: F401
from cellseg_mm.datasets.wrappers import build_dataset
from cellseg_mm.engine.config import dataset_config, load_config
from cellseg_mm.engine.preflight import drop_pretrained

CONFIGS = sorted((REPOSITORY / 'benchmarks/recipe').glob('*.py'))
OURS = sorted((REPOSITORY / 'configs').glob('*.py'))


@pytest.mark.parametrize('path', CONFIGS, ids=[path.stem for path in CONFIGS])
def test_a_config_of_the_ablation_can_be_built(path, tiny_data):
    assert path.read_text().startswith('# ')
    config = load_config(path, {'data_root': str(tiny_data)})
    register_all_modules()
    drop_pretrained(config.model)
    MODELS.build(config.model)
    dataset = build_dataset(config.train_dataloader.dataset, 'train')
    assert dataset[0]['data_samples'].gt_instances.masks.areas.any()


@pytest.mark.parametrize('path', OURS, ids=[path.stem for path in OURS])
def test_a_config_shows_images_and_their_cells(path, tiny_data):
    config = load_config(path, {'data_root': str(tiny_data), 'classes': ('class1', 'class2', 'class3', 'class4')})
    register_all_modules()
    train, val = (build_dataset(dataset_config(config, split), split) for split in ('train', 'val'))
    for sample in (train[0], train[len(train) - 1], val[0]):
        assert sample['inputs'].shape[0] == 3
        masks = sample['data_samples'].gt_instances.masks
        assert masks.areas.all()
        assert (masks.height, masks.width) == sample['inputs'].shape[1:]


@pytest.mark.parametrize(('name', 'steps'), [
    ('benchmarks/recipe/ema', 300), ('configs/cell_maskrcnn_strong', 7450), ('configs/cell_cascade_convnextv2', 7450)])
def test_an_average_of_the_weights_is_of_a_good_part_of_the_training(name, steps):
    hook, = (hook for hook in load_config(REPOSITORY / f'{name}.py').custom_hooks if hook['type'] == 'EMAHook')
    average = MODELS.build(dict(type=hook['ema_type'], model=nn.Linear(1, 1, bias=False), **{
        key: hook[key] for key in ('momentum', 'gamma')}))
    step = nn.Linear(1, 1, bias=False)
    for number in range(steps):
        nn.init.constant_(step.weight, number)
        average.update_parameters(step)
    age = steps - 1 - average.module.weight.item()  # on average, of the weights that are averaged
    assert 0.1 * steps < age < 0.5 * steps
