"""A trained model as a function from pictures to cells."""
import math
from pathlib import Path

import cv2
import numpy as np
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.utils import import_modules_from_strings

from cellseg_mm.errors import UserError
from cellseg_mm.evaluation.operating_point import thresholds_of
from cellseg_mm.io.raster import PERCENTILES
from cellseg_mm.models.checkpoint import check_weights, read_checkpoint
from cellseg_mm.models.embedded_config import embedded_config
from cellseg_mm.structures.cells import Cells
from cellseg_mm.structures.local_masks import as_local_masks

_STRIDE = 32  # of the coarsest features of models that have no anchors or points to tell it
_INEXACT = 0.01  # of a cell's size, the error that whole steps may bring


class Detector:
    """A model with the weights of a checkpoint, ready to predict.

    Args:
        checkpoint (str | Path): A file of `tools/train.py`, or any of MMDetection's with its config inside.
        config (str | Path, optional): Config file of the model, for a checkpoint without its own.
        device (str, optional): Such as 'cpu' or 'cuda:1'; by default a GPU where there is one.
        trusted (bool): Whether code in the checkpoint, or in its config, may run.

    Attributes:
        classes (tuple[str]): Names of the classes.
        mpp (float | None): Micrometres per pixel of the images it was trained on.
        factor (float | None): Pixels of the network's input for one of such an image; None where it scales images to
            one size, and does not tell which size those of the training were.
        stride (int): Of its coarsest features, in pixels of its input, and a multiple of what it pads inputs to.
        tiles (Tiles | None): Squares that it knows alone, if it knows cells by their place.
        thresholds (dict[str, float]): Of each class, the score from which on a cell counts.
        percentiles (tuple[float, float]): Of the intensities of uint16 and float images, which become 0 and 255.

    Raises:
        UserError: If the checkpoint is not to be trusted, is of another model, or scales images in a way that tiles
            cannot share.
    """

    def __init__(self, checkpoint, config=None, device=None, trusted=False):
        weights = read_checkpoint(checkpoint, trusted)
        config = _config_of(weights, checkpoint, config, trusted)
        meta = weights.get('meta', {}).get('dataset_meta') or {}
        classes = meta.get('classes') or meta.get('CLASSES') or config.get('classes')
        if not classes:
            raise UserError(f'{checkpoint}: neither it nor its config names the classes; set classes in the config')
        self.classes = tuple(map(str, classes))
        self.mpp = meta.get('mpp')
        self.factor = _factor(config, meta.get('image_size'), checkpoint)
        self.thresholds = thresholds_of(checkpoint, self.classes)
        loads = [step for step in _pipeline(config) if step.type == 'LoadTiffImage']
        self.percentiles = tuple(loads[0].get('percentiles', PERCENTILES)) if loads else PERCENTILES
        self._model = MODELS.build(config.model)
        check_weights(self._model, weights, checkpoint)
        self._model.load_state_dict(weights['state_dict'])
        device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
        try:
            self._model.to(device).eval()
        except (RuntimeError, AssertionError) as error:
            raise UserError(f'{device}: the model cannot be moved there: {str(error).splitlines()[0]}') from error
        self.tiles = getattr(self._model, 'tiles', None)
        generators = [module.prior_generator for module in self._model.modules() if hasattr(module, 'prior_generator')]
        strides = [int(max(np.ravel(generator.strides))) for generator in generators] or [_STRIDE]
        self.stride = math.lcm(max(strides), self._model.data_preprocessor.pad_size_divisor)

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
        inputs, samples = [], []
        for picture in pictures:
            # By the factor, not to a size, so that parts of an image are sampled where the whole one is.
            size = None if min(picture.shape[:2]) * factor >= 1 else (
                max(round(picture.shape[1] * factor), 1), max(round(picture.shape[0] * factor), 1))
            resized = picture if factor == 1 else cv2.resize(picture, size, fx=factor, fy=factor)
            inputs.append(torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1))))
            samples.append(DetDataSample(metainfo=dict(ori_shape=picture.shape[:2], img_shape=resized.shape[:2],
                                                       scale_factor=(factor, factor), img_id=0, img_path='')))
        found = self._model.test_step(dict(inputs=inputs, data_samples=samples))
        return [_cells(sample.pred_instances, picture.shape[:2])
                for sample, picture in zip(found, pictures, strict=True)]


def _cells(instances, shape):
    masks = as_local_masks(instances.masks, *shape)
    return Cells(masks, instances.labels.cpu().numpy().astype(np.int64),
                 instances.scores.float().cpu().numpy())[masks.boxes[:, 2] > 0]


def _config_of(weights, checkpoint, config, trusted):
    if config is None:
        return embedded_config(weights, checkpoint, trusted)
    if not Path(config).is_file():
        raise UserError(f'{config}: there is no such config')
    try:
        config = Config.fromfile(config)
    except Exception as error:  # a config is Python code: anything can go wrong in it
        raise UserError(f'{config}: {type(error).__name__}: {error}') from error
    import_modules_from_strings(**config.get('custom_imports', dict(imports=['cellseg_mm.register'])))
    return config


def _pipeline(config):
    return config.get('test_dataloader', {}).get('dataset', {}).get('pipeline', [])


def _factor(config, image_size, checkpoint):
    """By how much the test pipeline enlarges an image of (height, width), the usual one of the training, if known."""
    resizes = [step for step in _pipeline(config) if 'Resize' in str(step.type)]
    if not resizes:
        return 1.0
    resize, *more = resizes
    if more or resize.type not in ('Resize', 'mmdet.Resize') or not resize.get('keep_ratio', False):
        raise UserError(f'{checkpoint}: its test pipeline resizes images by {", ".join(map(str, resizes))}; only one '
                        'Resize with keep_ratio=True can be shared by tiles')
    if factor := resize.get('scale_factor'):
        factors = np.broadcast_to(factor, 2)
        if factors[0] != factors[1]:
            raise UserError(f'{checkpoint}: it stretches images, by {factor}, which tiles cannot share')
        return float(factors[0])
    if image_size is None:
        return None
    long, short = max(resize.scale), min(resize.scale)
    return min(long / max(image_size), short / min(image_size))


def whole_steps(factor, stride):
    """Pixels of an image that the network sees as whole strides, and the factor that makes them so.

    Tiles that begin there have the network's grids where those of the whole image are.

    Args:
        factor (float): Pixels of the network's input for one of the image's.
        stride (int): In pixels of the network's input.

    Returns:
        tuple[int, float]: Pixels; and the factor, or one that differs by a hundredth at most.
    """
    # Of the steps that fit, the shortest, since tiles overlap by so much more than they have to.
    for error in (1e-6, _INEXACT):
        for pixels in range(1, max(math.ceil(8 * stride / factor), 64) + 1):
            exact = max(round(pixels * factor / stride), 1) * stride / pixels
            if abs(exact - factor) <= error * factor:
                return pixels, exact
    raise UserError(f'an enlargement by {factor:g} is more than tiles can share: give the pixel size by --mpp')
