"""Whether the memory holds a step of the training: what the model keeps for its backward pass, at the least."""
import os
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from mmdet.registry import TRANSFORMS

from cellseg_mm.engine.config_checks.finding import warning
from cellseg_mm.engine.config_checks.subject import listed, pipeline_of
from cellseg_mm.structures.local_masks import LocalMasks

_MAIN_SIZES = 16  # of images; the largest decide
_LARGEST = 2**27  # pixels of an image that a pipeline is tried on
_FULL = 0.9  # share of the memory that is too much for an estimate which leaves things out
_ROUND = 32  # pixels, what images are padded to
# What changes sizes in ways that are not followed, or all that is beside it.
_UNFOLLOWED = 'Mosaic', 'MixUp', 'Expand', 'RandomAffine', 'Rotate', 'Shear', 'Translate', 'Perspective'
_FOLLOWED = 'Resize', 'Crop', 'Pad', 'RandomCellAffine'


def check(subject):
    """Yield findings; there are none without data, nor for a model that cannot be followed."""
    config = subject.config
    if subject.cells is None or not subject.cells.training.any() or subject.model is None:
        return
    batch = config.train_dataloader.get('batch_size') or 1
    side = input_size(pipeline_of(config, 'train'), [
        size for size, training in zip(subject.cells.image_sizes, subject.cells.training, strict=True) if training])
    if side and config.model.get('tiles'):  # which smaller inputs are padded to
        side = tuple(max(length, config.model.tiles['size']) for length in side)
    needed = side and step_bytes(subject.model, config.model, (batch, 3, *side))
    if not needed:
        return
    if 'Amp' in str(config.optim_wrapper.get('type')):
        needed //= 2  # half of the digits
    memory, where = _memory()
    if needed > _FULL * memory:
        yield warning('train_dataloader', f'gives batches of {batch} x {side[0]} x {side[1]} pixels, for which '
                      f'a step needs {needed / 1e9:.1f} GB or more, by estimate, of {memory / 1e9:.1f} GB {where}',
                      'set a smaller batch_size, or smaller crops or images in its pipeline')


def input_size(pipeline, sizes):
    """Height and width that hold every image of a batch.

    Those transforms that change sizes are tried on images without cells.

    Args:
        pipeline (list[dict]): Configs of transforms.
        sizes (list[tuple[int, int]]): (height, width) of images in pixels.

    Returns:
        tuple[int, int] | None: None where a transform cannot be followed.
    """
    if any(word in str(step['type']) for step in pipeline for word in _UNFOLLOWED):
        return None
    steps = [TRANSFORMS.build(deepcopy(dict(step))) for step in pipeline
             if any(word in str(step['type']) for word in _FOLLOWED)]
    turned = any(step['type'] == 'RandomQuarterTurn' for step in pipeline)
    largest = sorted(set(sizes), key=lambda size: size[0] * size[1])[-_MAIN_SIZES:]
    ends = []
    state = np.random.get_state()  # noqa: NPY002 -- MMDetection's transforms draw from the global state
    try:
        for height, width in largest:
            if height * width > _LARGEST:
                return None
            masks = LocalMasks(np.zeros(0, np.uint8), np.zeros((0, 4), np.int32), height, width)
            results = {
                'img': np.zeros((height, width), np.uint8), 'img_shape': (height, width), 'gt_masks': masks,
                'gt_bboxes': masks.get_bboxes(), 'gt_bboxes_labels': np.zeros(0, np.int64),
                'gt_ignore_flags': np.zeros(0, bool)}
            for step in steps:
                results = step(results)
            shape = results['img'].shape[:2]
            ends += [shape, shape[::-1]] if turned else [shape]
    except Exception:  # a transform that needs cells, or more
        return None
    finally:
        np.random.set_state(state)  # noqa: NPY002
    return tuple(int(-(-side // _ROUND) * _ROUND) for side in np.max(ends, 0))


def step_bytes(model, config, shape):
    """A lower bound of what a training step keeps in memory, from a forward pass without numbers.

    It counts the tensors that the backbone, the neck, and heads over whole maps and over regions keep for the backward
    pass, and the weights four times: with gradient and two moments. Targets, losses and what an operation needs for
    itself are left out: steps of five configs took 1.1 (R50) to 2.5 times (Mask2Former) as much on a CPU.

    Args:
        model (nn.Module): A detector, on the meta device.
        config (dict): Its config, for the number of regions.
        shape (tuple[int, int, int, int]): Of the batch.

    Returns:
        int | None: Bytes; None where the model cannot be followed.
    """
    weights = {tensor.untyped_storage()._cdata: tensor.nbytes for tensor in model.parameters()}
    if any(tensor.device.type != 'meta' for tensor in model.parameters()):
        return None
    kept, tensors = {}, []

    def keep(tensor):
        storage = tensor.untyped_storage()
        tensors.append(tensor)  # alive, so that no other has its address
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        try:
            maps = model.extract_feat(torch.zeros(shape, device='meta'))
        except Exception:  # an operation that needs numbers
            return None
        for head in ('rpn_head', 'bbox_head', 'mask_head'):
            _try(getattr(model, head, None), maps)
        for head, regions in _regions(model, config, shape[0]):
            _try(head, regions)
    return 4 * sum(weights.values()) + sum(kept.values())


def _try(module, inputs):
    """Run a part; one that needs numbers, or more, counts as far as it came."""
    if module is not None:
        try:
            module(inputs)
        except Exception:
            return


def _regions(model, config, images):
    """The heads for boxes and for masks, and the features of as many regions as they are trained on at once."""
    roi_head = getattr(model, 'roi_head', None)
    training = listed((config.get('train_cfg') or {}).get('rcnn'))
    for kind in ('bbox', 'mask'):
        heads, extractors = (getattr(roi_head, f'{kind}_{part}', None) for part in ('head', 'roi_extractor'))
        if heads is None or extractors is None:
            continue
        several = isinstance(heads, torch.nn.ModuleList)
        for number, head in enumerate(heads if several else [heads]):
            sampler = training[min(number, len(training) - 1)].get('sampler') or {} if training else {}
            count = images * int(sampler.get('num', 0) * (1 if kind == 'bbox' else sampler.get('pos_fraction', 1)))
            extractor = extractors[number] if isinstance(extractors, torch.nn.ModuleList) else extractors
            side = extractor.roi_layers[0].output_size[0]
            yield head, torch.zeros(count, extractor.out_channels, side, side, device='meta', requires_grad=True)


def _memory():
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory, 'of the GPU'
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    limit = Path('/sys/fs/cgroup/memory.max')  # of a container
    if limit.is_file() and limit.read_text().strip().isdigit():
        memory = min(memory, int(limit.read_text()))
    return memory // int(os.environ.get('LOCAL_WORLD_SIZE', '1')), 'of memory'
