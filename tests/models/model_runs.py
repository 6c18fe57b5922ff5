"""Models of the configs, and data to train them on for a step or some."""
import importlib.util

import numpy as np
import torch
from conftest import REPOSITORY

import cellseg_mm.register  # noqa: F401
from cellseg_mm.datasets.synthetic import make_cells_image
from cellseg_mm.engine.config import load_config
from cellseg_mm.engine.preflight import drop_pretrained
from cellseg_mm.structures.local_masks import LocalMasks

from mmdet.registry import MODELS  # isort: skip (after cellseg_mm)
from mmdet.structures import DetDataSample  # isort: skip (after cellseg_mm)
from mmdet.structures.bbox import HorizontalBoxes  # isort: skip (after cellseg_mm)
from mmdet.utils import register_all_modules  # isort: skip (after cellseg_mm)
from mmengine.optim import build_optim_wrapper  # isort: skip (after cellseg_mm)
from mmengine.structures import InstanceData  # isort: skip (after cellseg_mm)

CONFIGS = sorted(path.stem for path in REPOSITORY.glob('configs/*.py'))


def build(name, pretrained=False, **options):
    """The config of that name with those options, its model in training mode, initialised, and its optimizer."""
    config = load_config(REPOSITORY / f'configs/{name}.py', options)
    if not pretrained:
        drop_pretrained(config.model)
    register_all_modules()
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    model.init_weights()
    model.train().to(memory_format=torch.channels_last)  # as on the CPU, whatever the machine
    return config, model, build_optim_wrapper(model, config.optim_wrapper)


def tiny_scene(cells, size=(112, 128)):
    """A generated image with that many cells, of two classes: uint8 (H, W, 3) BGR, LocalMasks and labels."""
    counts = {'class1': (cells + 1) // 2, 'class2': cells // 2} if cells else {}
    image, maps = make_cells_image(np.random.default_rng(cells), *size, counts)
    parts = [LocalMasks.from_label_map(labels) for labels in maps.values()]
    labels = [number for number, part in enumerate(parts) for _ in range(len(part))]
    assert len(labels) == cells
    return image[..., ::-1].copy(), LocalMasks.cat([LocalMasks.empty(*size), *parts]), labels


def dense_scene(cells=300, side=400):
    """A window of a real tile with that many cells or some more: uint8 (S, S, 3) BGR, LocalMasks and labels.

    CoNSeP's densest training tile; cells that the window cuts are among them.
    """
    path = REPOSITORY / 'benchmarks/consep.py'
    spec = importlib.util.spec_from_file_location(path.stem, path)
    consep = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(consep)
    layout = consep.load()
    tiles = [layout.read_tile('train', name) for name in layout.tile_names('train')]
    image, instances, classes = max(tiles, key=lambda tile: len(np.unique(tile[1])))
    windows = (np.s_[row:row + side, column:column + side]
               for row in range(0, 1001 - side, 50) for column in range(0, 1001 - side, 50))
    window = min(windows, key=lambda window: abs(len(np.unique(instances[window])) - 1 - cells - 20))
    instances, classes = instances[window], classes[window]
    ids = np.unique(instances[instances > 0])
    masks = LocalMasks.from_label_map(instances)
    labels = [int(np.bincount(classes[instances == number]).argmax()) - 1 for number in ids]
    assert len(masks) == len(labels) >= cells
    return image[window][..., ::-1].copy(), masks, labels


def batch(*scenes, factor=1.0):
    """What a data loader hands on for these scenes, enlarged by a factor."""
    inputs, samples = [], []
    for number, (image, masks, labels) in enumerate(scenes):
        height, width = (round(side * factor) for side in image.shape[:2])
        resized = torch.nn.functional.interpolate(
            torch.from_numpy(image).permute(2, 0, 1)[None].float(), (height, width), mode='bilinear')[0]
        inputs.append(resized.round().to(torch.uint8))
        masks = masks.resize((height, width))
        sample = DetDataSample(metainfo=dict(
            img_shape=(height, width), ori_shape=image.shape[:2], scale_factor=(factor, factor), img_id=number,
            img_path=f'{number}.tif'))
        sample.gt_instances = InstanceData(
            bboxes=masks.get_bboxes(HorizontalBoxes), labels=torch.tensor(labels, dtype=torch.long), masks=masks)
        sample.ignored_instances = InstanceData(
            bboxes=masks[[]].get_bboxes(HorizontalBoxes), labels=torch.zeros(0, dtype=torch.long), masks=masks[[]])
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def predict(model, data):
    """Predicted instances of each image of a batch."""
    torch.manual_seed(0)
    return [sample.pred_instances for sample in model.eval().test_step(data)]
