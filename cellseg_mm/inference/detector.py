"""A trained model as a function from pictures to cells."""
import math
import re
from numbers import Real

import cv2
import numpy as np
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample

from cellseg_mm.errors import UserError, is_out_of_memory, one_line
from cellseg_mm.io.raster import PERCENTILES, check_percentiles
from cellseg_mm.models.checkpoint import (
    check_checkpoint_classes,
    check_weights,
    class_names,
    read_checkpoint,
    trained_classes,
)
from cellseg_mm.models.embedded_config import embedded_config, import_modules
from cellseg_mm.structures.cells import Cells
from cellseg_mm.structures.local_masks import as_local_masks

_STRIDE = 32  # of the coarsest features of models that have no anchors or points to tell it
_HEADS = 'roi_head', 'bbox_head', 'mask_head', 'panoptic_head'  # which tell classes apart
_ERRORS = 1e-6, 0.01, 0.03, 0.1  # of a cell's size, that whole steps may bring where smaller ones are impossible
_MOST_STEPS = 64  # some of as many brings no more than 0.01
_AVERAGED = 0.5  # times the size; bilinear sampling passes over pixels of images that shrink by more
FACTORS = 0.001, 1000.0  # no cell is worth more, or seen in less
_WHOLE = re.compile(r'neck|(\w+\.)*\w+_head(\.\d+)?')  # parts whose results are no longer computed with by layers
_REMEDY = 'give the config that it was trained with by --config'


class Detector:
    """A model with the weights of a checkpoint, ready to predict.

    Args:
        checkpoint (str | Path): A file of `tools/train.py`, or any of MMDetection's with its config inside.
        config (Config, optional): Of the model, for a checkpoint without its own.
        device (str, optional): Such as 'cpu' or 'cuda:1'; by default a GPU where there is one.
        trusted (bool): Whether code in the checkpoint, or in its config, may run.
        amp (bool): Compute in mixed precision: bfloat16 on a CPU, float16 elsewhere.

    Attributes:
        classes (tuple[str]): Names of the classes.
        mpp (float | None): Micrometres per pixel of the images it was trained on.
        factor (float | None): Pixels of the network's input for one of such an image; None where it scales images to
            one size, and does not tell which size those of the training were.
        stride (int): Of its coarsest features, in pixels of its input, and a multiple of what it pads inputs to.
        tiles (Tiles | None): Squares that it knows alone, if it knows cells by their place.
        percentiles (tuple[float, float]): Of the intensities of uint16 and float images, which become 0 and 255.

    Raises:
        UserError: If the checkpoint is damaged or not to be trusted, is of another model, or scales images in a way
            that tiles cannot share.
    """

    def __init__(self, checkpoint, config=None, device=None, trusted=False, amp=False):
        weights = read_checkpoint(checkpoint, trusted)
        if config is None:
            config = embedded_config(weights, checkpoint, trusted)
        else:
            import_modules(config, checkpoint)
        self.classes = _classes(weights, config, checkpoint)
        meta = weights.get('meta', {}).get('dataset_meta') or {}
        self.mpp = meta.get('mpp')
        if self.mpp is not None and not _is_positive(self.mpp):
            raise UserError(f'{checkpoint}: its pixel size (mpp) is {self.mpp!r}, not a length in micrometres or None')
        steps = prediction_steps(config, checkpoint)
        self.factor = _factor(steps, meta.get('image_size'), checkpoint)
        self.percentiles = _percentiles(steps, checkpoint)
        self._checkpoint = checkpoint
        self._model, self.stride = _build(config.get('model'), weights, checkpoint)
        _check_count(self._model, self.classes, checkpoint)
        self.tiles = getattr(self._model, 'tiles', None)
        device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
        try:
            self._model.to(device).eval()
            kind = torch.device(device).type
            self._precision = torch.autocast(kind, torch.bfloat16 if kind == 'cpu' else torch.float16, enabled=amp)
        except (RuntimeError, AssertionError) as error:
            raise UserError(f'{device}: the model cannot be moved there: {str(error).splitlines()[0]}') from error
        if kind == 'cpu':
            self._model.to(memory_format=torch.channels_last)  # the same but for rounding, sooner
        if amp:
            for name, module in self._model.named_modules():
                if _WHOLE.fullmatch(name):
                    module.register_forward_hook(lambda _module, _inputs, output: _as_floats(output))

    @torch.inference_mode()
    def __call__(self, pictures, factor=None):
        """Find cells.

        Args:
            pictures (Sequence[ndarray]): uint8 (H, W, 3) BGR each, all of one size.
            factor (float, optional): Pixels of the network's input for one of the pictures'; its own by default.

        Returns:
            list[Cells]: Of each picture, all that the model's own limits let through.
        """
        factor = factor or self.factor
        # Where training itself passes over pixels, by a small factor, only those far smaller than its own are averaged.
        method = cv2.INTER_AREA if factor < _AVERAGED * min(self.factor or 1, 1) else cv2.INTER_LINEAR
        inputs, samples = [], []
        for picture in pictures:
            # By the factor, not to a size, so that parts of an image are sampled where the whole one is.
            size = None if min(picture.shape[:2]) * factor >= 1 else (
                max(round(picture.shape[1] * factor), 1), max(round(picture.shape[0] * factor), 1))
            resized = picture if factor == 1 else cv2.resize(picture, size, fx=factor, fy=factor, interpolation=method)
            inputs.append(torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1))))
            samples.append(DetDataSample(metainfo=dict(ori_shape=picture.shape[:2], img_shape=resized.shape[:2],
                                                       scale_factor=(factor, factor), img_id=0, img_path='')))
        try:
            with self._precision:
                found = self._model.test_step(dict(inputs=inputs, data_samples=samples))
        except (UserError, torch.AcceleratorError):
            raise
        except Exception as error:  # whatever a part makes of settings that only count now
            if is_out_of_memory(error):
                raise
            raise UserError(f'{self._checkpoint}: its model cannot predict: {type(error).__name__}: {one_line(error)}; '
                            f'{_REMEDY}') from error
        return [_cells(sample.pred_instances, picture.shape[:2])
                for sample, picture in zip(found, pictures, strict=True)]


def _as_floats(output):
    """Of full precision: scores rounded to 8 bits tie, and boxes decoded with them would be off by pixels."""
    if isinstance(output, torch.Tensor):
        return output.float() if output.is_floating_point() else output
    return type(output)(map(_as_floats, output)) if isinstance(output, (list, tuple)) else output


def _cells(instances, shape):
    masks = as_local_masks(instances.masks, *shape)
    return Cells(masks, instances.labels.cpu().numpy().astype(np.int64),
                 instances.scores.float().cpu().numpy())[masks.boxes[:, 2] > 0]


def _classes(weights, config, checkpoint):
    trained, named = trained_classes(weights, checkpoint), config.get('classes')
    if trained is None and named is None:
        raise UserError(f'{checkpoint}: neither it nor its config names the classes; set classes in the config')
    classes = trained if named is None else class_names(named, f'{checkpoint}: its config')
    check_checkpoint_classes(weights, classes, checkpoint)
    return classes


def _check_count(model, classes, checkpoint):
    counts = {module.num_classes for name, module in model.named_modules()
              if name.split('.')[0] in _HEADS and hasattr(module, 'num_classes')}
    if counts and len(classes) not in counts:
        raise UserError(f'{checkpoint}: it names the classes {", ".join(classes)}, but its model tells '
                        f'{" or ".join(map(str, sorted(counts)))} apart; {_REMEDY}')


def _build(settings, weights, checkpoint):
    """The model, and the stride of its coarsest features."""
    try:
        model = MODELS.build(settings)
        check_weights(model, weights, checkpoint)
        model.load_state_dict(weights['state_dict'])
        generators = [module.prior_generator for module in model.modules() if hasattr(module, 'prior_generator')]
        strides = [int(max(np.ravel(generator.strides))) for generator in generators] or [_STRIDE]
        stride = math.lcm(max(strides), model.data_preprocessor.pad_size_divisor)
    except UserError:
        raise
    except Exception as error:  # whatever a part makes of its arguments
        raise UserError(f'{checkpoint}: its config builds no model: {type(error).__name__}: {one_line(error)}; '
                        f'{_REMEDY}') from error
    if stride < 1:
        raise UserError(f'{checkpoint}: its config pads images to multiples of {stride} pixels; {_REMEDY}')
    return model, stride


def prediction_steps(config, checkpoint):
    """The steps of the test pipeline of a config, out of wrappers of its data set; without any a UserError."""
    node = config.get('test_dataloader')
    while isinstance(node, dict) and 'pipeline' not in node:
        node = node.get('dataset')
    steps = node['pipeline'] if isinstance(node, dict) else None
    if not isinstance(steps, (list, tuple)) or not all(isinstance(step, dict) and 'type' in step for step in steps):
        raise UserError(f'{checkpoint}: its config has no test_dataloader with a pipeline, a list of steps with a type '
                        f'each; {_REMEDY}')
    return steps


def _percentiles(steps, checkpoint):
    loads = [step for step in steps if step.type == 'LoadTiffImage']
    values = loads[0].get('percentiles', PERCENTILES) if loads else PERCENTILES
    try:
        low, high = values
        check_percentiles((low, high))
    except (TypeError, ValueError, UserError) as error:
        raise UserError(f'{checkpoint}: its test pipeline has the percentiles {values!r}, which do not rise within 0 '
                        f'to 100; {_REMEDY}') from error
    return low, high


def _factor(steps, image_size, checkpoint):
    """By how much the test pipeline enlarges an image of (height, width), the usual one of the training, if known."""
    resizes = [step for step in steps if 'Resize' in str(step.type)]
    if not resizes:
        return 1.0
    resize, *more = resizes
    if more or resize.type not in ('Resize', 'mmdet.Resize') or not resize.get('keep_ratio', False):
        raise UserError(f'{checkpoint}: its test pipeline resizes images by {", ".join(map(str, resizes))}; only one '
                        'Resize with keep_ratio=True can be shared by tiles')
    scale = resize.get('scale')  # which goes first where both are set
    values = _pair(scale if scale is not None else resize.get('scale_factor'))
    if values is None:
        raise UserError(f'{checkpoint}: its test pipeline resizes images by {resize}, which needs a scale or a '
                        f'scale_factor of one number above 0 or two; {_REMEDY}')
    if scale is None:
        factor = values[0]
        if factor != values[1]:
            raise UserError(f'{checkpoint}: it stretches images, by {values}, which tiles cannot share')
    elif image_size is None:
        return None
    else:
        sides = _pair(image_size)
        if sides is None:
            raise UserError(f'{checkpoint}: its image_size is {image_size!r}, not the height and width of images')
        factor = min(max(values) / max(sides), min(values) / min(sides))
    if not FACTORS[0] <= factor <= FACTORS[1]:
        raise UserError(f'{checkpoint}: it enlarges images by {factor:g}, which shows no cells; {_REMEDY}')
    return float(factor)


def _pair(value):
    """Two positive numbers, of which one may stand for both; None for anything else."""
    pair = tuple(value) if isinstance(value, (list, tuple)) else (value, value)
    return pair if len(pair) == 2 and all(map(_is_positive, pair)) else None


def _is_positive(value):
    return isinstance(value, Real) and not isinstance(value, bool) and 0 < value < math.inf


def whole_steps(factor, stride, tile, overlap):
    """Pixels of an image that the network sees as whole strides, and the factor that makes them so.

    Tiles that begin there have the network's grids where those of the whole image are.

    Args:
        factor (float): Pixels of the network's input for one of the image's.
        stride (int): In pixels of the network's input.
        tile (int): Sides of a tile, in pixels of the network's input.
        overlap (int): What tiles share at the least, in pixels of the network's input.

    Returns:
        tuple[int, float]: Pixels, by which tiles that overlap can go on; and the factor, or one that differs by a
        hundredth at most, or by a tenth where tiles are too small for such steps.

    Raises:
        UserError: If tiles cannot go on by a stride.
    """
    steps, needed = [], []
    for count in range(1, _MOST_STEPS + 1):
        pixels, strides = round(count * max(stride / factor, 1)), round(count * max(factor / stride, 1))
        exact = strides * stride / pixels
        error, shared = abs(exact / factor - 1), math.ceil(overlap / exact)
        if error <= _ERRORS[-1]:
            needed.append(math.ceil((pixels + shared) * exact))
            if pixels + shared <= math.floor(tile / exact):
                steps.append((error, pixels, exact))
    if not steps:
        raise UserError(f"tiles of {tile} pixels of the network's input cannot overlap by {overlap} where it enlarges "
                        f'images by {factor:.4g}: take --tile {min(needed)}, or less --overlap')
    # Of the steps that are right, the shortest, since tiles overlap by so much more than they have to.
    return next((pixels, exact) for most in _ERRORS for error, pixels, exact in steps if error <= most)
