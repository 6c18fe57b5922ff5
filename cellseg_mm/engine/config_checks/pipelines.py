"""Whether pipelines load what training and prediction need, lose no cells, and show the same in both."""
import numpy as np
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.registry import TRANSFORMS

from cellseg_mm.datasets.wrappers import pipeline_steps
from cellseg_mm.engine.config import dataset_config, dataset_key
from cellseg_mm.engine.config_checks.finding import error, note, warning
from cellseg_mm.engine.config_checks.memory import input_size
from cellseg_mm.engine.config_checks.subject import crop_size, dicts, pipeline_of
from cellseg_mm.engine.preflight import canvas_parts

# Transforms of MMDetection's that change an array of canvases, which LocalMasks have not.
_REFUSED = 'CopyPaste', 'RandomErasing', 'Albu'
_PREDICTED = 'img_id', 'ori_shape', 'img_shape', 'scale_factor'  # what a prediction is brought back to the image by
_FEW = 0.01  # share of cells that may be lost
_BY_PLACE = 'num_queries', 'num_proposals', 'num_grids'  # of models that know cells by where in the image they are
_LARGER = 1.5  # times what was learnt on
_MANY = 4  # crops of an image, of which an epoch shows one


def check(subject):
    """Yield findings."""
    config = subject.config
    for split in ('train', 'val', 'test'):
        if not config.get(f'{split}_dataloader'):
            continue
        steps = pipeline_steps(config[f'{split}_dataloader'].dataset, f'{split}_dataloader.dataset')
        for place, step in steps:
            name = str(step.get('type')).removeprefix('mmdet.')
            if name in _REFUSED:
                yield error(place, f'has {name}, which needs a canvas for each cell', 'leave it out')
        if split != 'test':
            yield from _masks(config, split, [step for _, step in steps])
        if split != 'train':
            yield from _scale(f'{dataset_key(config, split)}.pipeline', steps)
    if config.get('train_dataloader'):
        yield from _lost(subject)
        yield from _rarely_shown(subject)
        if config.get('val_dataloader'):
            yield from _seen(subject)
    if not (config.model.get('data_preprocessor') or {}).get('pad_mask'):
        yield warning('model.data_preprocessor.pad_mask', 'is not set: masks are not padded where images of a '
                      'batch are', 'set pad_mask=True')
    for place, (name, ours) in canvas_parts(config).items():
        yield warning(f'{place}.type', f'is {name}, which takes memory and time for a canvas of each cell',
                      f'set type={ours!r}')


def _masks(config, split, steps):
    kinds = [TRANSFORMS.get(step['type']) for step in steps]
    loaders = [TRANSFORMS.build(dict(step)) for step, kind in zip(steps, kinds, strict=True)
               if isinstance(kind, type) and issubclass(kind, LoadAnnotations)]
    remedy = "add dict(type='LoadCellAnnotations') after LoadTiffImage"
    if any(loader.with_mask for loader in loaders):
        return
    place = f'{dataset_key(config, split)}.pipeline'
    what = 'loads no masks' if loaders else 'loads no cells'
    if split == 'train':
        yield error(place, f'{what}, which the model learns from', remedy)
    elif (config.get('default_hooks') or {}).get('epoch_loss'):
        yield warning(place, f'{what}: there will be no validation loss', remedy)


def _scale(place, steps):
    if 'Resize' not in str(steps):  # which may be in a wrapper
        yield error(place, 'has no Resize, which tells the scale that predictions are brought back by',
                    "add dict(type='Resize', scale_factor=1.0, keep_ratio=True)")
    for own_place, step in steps:
        missing = [key for key in _PREDICTED if key not in step.get('meta_keys', _PREDICTED)]
        if missing:
            yield error(f'{own_place} ({step["type"]}).meta_keys', f'lacks {", ".join(missing)}, which '
                        'predictions are brought back to the image by', 'add what is missing')


def _seen(subject):
    """A model that knows cells by their place in a crop is at a loss on a whole image."""
    config, cells = subject.config, subject.cells
    keys = [f'{place}.{key}' for place, node in dicts(config.model, 'model') for key in _BY_PLACE if key in node]
    if not keys or config.model.get('tiles') or cells is None or not cells.training.any():
        return
    sizes = [size for size, training in zip(cells.image_sizes, cells.training, strict=True) if training]
    learnt, predicted = (input_size(pipeline_of(config, split), sizes) for split in ('train', 'val'))
    if learnt and predicted and max(predicted) > _LARGER * max(learnt):
        size = max(learnt)
        yield warning('model.tiles', f'is not set, and by {keys[0]} the model knows cells by where they lie in '
                      f'{learnt[0]} x {learnt[1]} pixels; predictions are for {predicted[0]} x {predicted[1]}',
                      f'set tiles=dict(size={size}, overlap={size // 4}, max_per_tile=300, '
                      'max_per_img=_base_.max_dets)')


def _rarely_shown(subject):
    config, cells, size = subject.config, subject.cells, crop_size(pipeline_of(subject.config, 'train'))
    dataset = config.train_dataloader.dataset
    if size is None or cells is None or not cells.training.any() or 'dataset' in dataset or dataset.get('crop_size'):
        return
    sizes = np.array(cells.image_sizes)[cells.training, ::-1]
    most, (width, height) = int(np.ceil(sizes / size).prod(1).max()), np.ceil(size).astype(int).tolist()
    if most > _MANY:
        yield note('train_dataloader.dataset.crop_size', f'is not set: an epoch shows one crop of {width} x {height} '
                   f'pixels of each image, and the largest is {most:,} such crops', f'set crop_size={(width, height)}')


def _lost(subject):
    config, cells = subject.config, subject.cells
    place, limits = dataset_key(config, 'train'), dataset_config(config, 'train').get('filter_cfg') or {}
    if cells is not None and cells.training.any():
        small = sum(min(size) < limits.get('min_size', 0)
                    for size, training in zip(cells.image_sizes, cells.training, strict=True) if training)
        if small:
            yield warning(f'{place}.filter_cfg.min_size', f'is {limits["min_size"]} and drops {small} of '
                          f'{cells.training.sum()} images', 'set filter_cfg=None')
        empty = int((cells.counts[cells.training] == 0).sum())
        if limits.get('filter_empty_gt') and empty:
            yield warning(f'{place}.filter_cfg.filter_empty_gt', f'drops {empty} of {cells.training.sum()} '
                          'images, without a cell, which teach what is none', 'set filter_cfg=None')
    for own_place, step in pipeline_steps(config.train_dataloader.dataset, 'train_dataloader.dataset'):
        if step.get('type') == 'FilterAnnotations' and cells is not None and len(cells.image):
            width, height = step.get('min_gt_bbox_wh', (1, 1))
            share = float(((subject.seen_sizes[:, 0] < width) | (subject.seen_sizes[:, 1] < height)).mean())
            if step.get('by_box', True) and share > _FEW:
                yield warning(f'{own_place} (FilterAnnotations).min_gt_bbox_wh', f'is {(width, height)} '
                              f'and drops {100 * share:.0f}% of the cells', 'set min_gt_bbox_wh=(1, 1)')
