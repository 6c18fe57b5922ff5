"""From an image of any size to its cells."""
import math
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import NamedTuple

import numpy as np

from cellseg_mm.errors import UserError
from cellseg_mm.evaluation.operating_point import thresholds_of
from cellseg_mm.inference.detector import FACTORS, Detector, whole_steps
from cellseg_mm.inference.fusion import fuse
from cellseg_mm.inference.tissue import tissue_tiles
from cellseg_mm.inference.views import views_of
from cellseg_mm.io.pixel_size import plausible
from cellseg_mm.io.slide import ArrayImage, open_slide
from cellseg_mm.structures.cells import Cells
from cellseg_mm.structures.merging import merge
from cellseg_mm.structures.overlaps import distinct
from cellseg_mm.structures.tiling import Tiling, fitted

_TILE, _OVERLAP = 1024, 192  # pixels of the network's input
_RIM = 4  # of those, within which a network may end a mask before a tile's border
_SCALES = 0.1, 10.0  # pixel sizes by which an image may differ from the training's


class Plan(NamedTuple):
    """How an image is looked at.

    Attributes:
        tiling (Tiling): In pixels of the image.
        shown (list[int]): The tiles that are looked at, the others being background.
        factors (tuple[float]): For each detector, pixels of its input for one of the image's.
        rim (int): Pixels of the image within which a mask at a tile's border counts as cut.
        note (str): What there is to say of the pixel size, or nothing.
    """

    tiling: Tiling
    shown: list
    factors: tuple
    rim: int
    note: str


class Predictor:
    """Finds the cells of images of any size, by one model or several.

    An image is seen in overlapping tiles, and scaled to the pixel size that the model was trained on where both are
    known. What several models found, or one in several views, is fused.

        predictor = Predictor('work_dirs/cell_maskrcnn/best_epoch_20.pth')
        cells = predictor('slide.svs')
        cells.masks, cells.labels, cells.scores

    Args:
        checkpoint (str | Path): A file of `tools/train.py`.
        *more (str | Path): Others, of models of the same classes, for an ensemble.
        config (Config, optional): Of `cellseg_mm.engine.config.read_model_config`, for checkpoints without their own.
        device (str, optional): Such as 'cpu' or 'cuda:1'; by default a GPU where there is one.
        views (Sequence[str]): Sets of `cellseg_mm.inference.views.VIEWS`, such as ('turns', 'scales').
        tile (int, optional): Pixels of the network's input along the sides of a tile; by default 1,024, or what the
            model knows.
        overlap (int, optional): Pixels of the network's input that neighbours share; by default 192, or what the model
            knows. It is to be as long as most cells.
        scale (float, optional): By how much images are enlarged for the network, whatever their pixel size.
        background (bool): Whether tiles without tissue are looked at too.
        batch_size (int): Tiles that are looked at at once.
        trusted (bool): Whether code in the checkpoints may run.
        amp (bool): Compute in mixed precision, as `Detector` does.

    Attributes:
        classes (tuple[str]): Names of the classes, which labels count.
        mpp (float | None): Micrometres per pixel of the images that the first model was trained on.
        factor (float | None): Pixels of the first network's input for one of such an image; None where the model scales
            images to one size, and neither its checkpoint nor `scale` tells.
        thresholds (ndarray): float64 (C,), of each class the score from which on a cell counts: the mean of those
            beside the checkpoints, for these views where they have them. May be set.
        note (str): What there is to say of all images, or nothing.

    Raises:
        UserError: If a checkpoint cannot be used, those of several do not fit, or a setting makes no sense.
    """

    def __init__(self, checkpoint, *more, config=None, device=None, views=(), tile=None, overlap=None, scale=None,
                 background=False, batch_size=1, trusted=False, amp=False):
        checkpoints = checkpoint, *more
        for name, value, least in (('tile', tile, 1), ('overlap', overlap, 0), ('batch_size', batch_size, 1)):
            if value is not None and value < least:
                raise UserError(f'{name} is {value}, and has to be {least} or more')
        if scale is not None and not FACTORS[0] <= scale <= FACTORS[1]:
            raise UserError(f'scale is {scale}, and has to be from {FACTORS[0]:g} to {FACTORS[1]:g}')
        views = [views] if isinstance(views, str) else views
        self._views = views_of(views)
        self._detectors = [Detector(checkpoint, config, device, trusted, amp) for checkpoint in checkpoints]
        first = self._detectors[0]
        for checkpoint, detector in zip(checkpoints, self._detectors, strict=True):
            if detector.classes != first.classes:
                raise UserError(f'{checkpoint}: it knows the classes {", ".join(detector.classes)}, {checkpoints[0]} '
                                f'{", ".join(first.classes)}; models of the same classes can be fused')
            if detector.percentiles != first.percentiles:
                raise UserError(f'{checkpoint}: it knows intensities by the percentiles {detector.percentiles}, '
                                f'{checkpoints[0]} by {first.percentiles}; models of the same percentiles can be fused')
        self.classes, self.mpp, self.factor = first.classes, first.mpp, scale or first.factor
        self.thresholds = np.mean([list(thresholds_of(checkpoint, self.classes, views).values())
                                   for checkpoint in checkpoints], axis=0)
        known = first.tiles
        self._tile = tile or (known.size if known else _TILE)
        self._overlap = (known.overlap if known else _OVERLAP) if overlap is None else overlap
        if not 0 <= self._overlap <= self._tile - first.stride:
            raise UserError(f'tiles of {self._tile} pixels cannot overlap by {self._overlap}: take larger tiles, or '
                            f'less overlap; they go on by {first.stride} pixels at the least')
        if scale:
            whole_steps(scale, first.stride, self._tile, self._overlap)
        self._scale, self._background, self._batch_size = scale, background, batch_size
        untold = [str(path) for path, one in zip(checkpoints, self._detectors, strict=True) if not one.mpp]
        self.note = '' if scale or not untold else (
            f'{", ".join(untold)}: the pixel size of the training is not told; all images are taken to be of the same')

    def __call__(self, image, mpp=None):
        """The cells of an image that count: sure enough, each once, no two on one pixel.

        Args:
            image (str | Path | ndarray): A file, or uint8 (H, W, 3) BGR, as `read_image` gives it.
            mpp (float, optional): Micrometres per pixel, for an image that does not tell.

        Returns:
            Cells: On a canvas of the image's size.
        """
        return self.confident(self.detect(image, mpp))

    def detect(self, image, mpp=None):
        """All that is found in an image, doubtful and overlapping cells too, as metrics want it; as `__call__`."""
        if isinstance(image, np.ndarray):
            return self._detect(ArrayImage(image), mpp)
        with self.open(image) as slide:
            return self._detect(slide, mpp)

    def open(self, path):
        """An image file as a `Slide`, its intensities scaled as the model's training scaled them."""
        return open_slide(path, self._detectors[0].percentiles)

    def _detect(self, slide, mpp=None):
        plan = self.plan(slide, mpp)
        return self.merged(plan, dict(self.look(slide, plan, plan.shown)))

    def plan(self, slide, mpp=None):
        """How an image will be looked at.

        Args:
            slide: As `open_slide` gives it.
            mpp (float, optional): Micrometres per pixel, in place of what the file says.

        Returns:
            Plan: The tiles and scales.

        Raises:
            UserError: If the pixel size is far from that of the training.
        """
        tiling, factors = self.layout(slide, mpp)
        shown = list(range(len(tiling.tiles))) if self._background else tissue_tiles(slide, tiling)
        note = _note(self._detectors[0], mpp or slide.mpp, self._scale)
        return Plan(tiling, shown, factors, math.ceil(_RIM / factors[0]), note)

    def layout(self, slide, mpp=None):
        """The tiles of an image, and for each detector the pixels of its input for one of the image's.

        Nothing is read but the image's size. Arguments and errors are those of `plan`.

        Returns:
            tuple[Tiling, tuple[float]]: In pixels of the image; factors.
        """
        if mpp is not None and not plausible(mpp):
            raise UserError(f'pixels of {mpp} micrometres are those of no microscope: give mpp such as 0.25')
        factors = [self._scale or _factor(detector, mpp or slide.mpp) for detector in self._detectors]
        unit, factors[0] = whole_steps(factors[0], self._detectors[0].stride, self._tile, self._overlap)
        size, overlap = math.floor(self._tile / factors[0]), math.ceil(self._overlap / factors[0])
        if not self._detectors[0].tiles:  # which cost the same whatever they show
            size = fitted(slide.height, slide.width, size, overlap, unit)
        return Tiling(slide.height, slide.width, size, overlap, unit), tuple(factors)

    def look(self, slide, plan, tiles):
        """Look at tiles of an image.

        Args:
            slide: As `open_slide` gives it.
            plan (Plan): Of this image.
            tiles (Sequence[int]): Indices of the plan's tiles.

        Yields:
            tuple[int, Cells]: The tile, and what was found in it.
        """
        places = plan.tiling.tiles
        batches = [some[first:first + self._batch_size]
                   for some in (list(group) for _, group in groupby(tiles, lambda tile: places[tile][2:]))
                   for first in range(0, len(some), self._batch_size)]

        def read(batch):
            return [slide.read(*places[tile]) for tile in batch]

        # One batch is read while the network sees the one before it.
        with ThreadPoolExecutor(1) as reader:
            coming = [reader.submit(read, batch) for batch in batches[:1]]
            for number, batch in enumerate(batches, 1):
                pictures = coming.pop().result()
                coming += [reader.submit(read, following) for following in batches[number:number + 1]]
                yield from zip(batch, self._see(pictures, plan.factors), strict=True)

    def _see(self, pictures, factors):
        """What all detectors found in all views of pictures, fused."""
        found = []
        for detector, factor in zip(self._detectors, factors, strict=True):
            for view in self._views:
                seen = detector([view.of(picture) for picture in pictures], factor * view.scale)
                found.append([view.undo(cells) for cells in seen])
        return [fuse(views) for views in zip(*found, strict=True)]

    def merged(self, plan, found):
        """One set of cells out of those of the tiles.

        Args:
            plan (Plan): Of the image.
            found (dict[int, Cells]): By tile what was found in it, of all that are shown.

        Returns:
            Cells: On a canvas of the image's size.
        """
        tiling = plan.tiling
        by_tile = [Cells.none(tiling.height, tiling.width), *(found[tile] for tile in sorted(found))]
        scores, labels = (np.concatenate([getattr(part, name) for part in by_tile]) for name in ('scores', 'labels'))
        masks = [found[tile].masks if tile in found else None for tile in range(len(tiling.tiles))]
        masks, kept = merge(tiling, masks, scores, plan.rim)
        return Cells(masks, labels[kept], scores[kept])

    def confident(self, cells):
        """Those of a score at or above the threshold of their class, each once, no two on one pixel; none is empty."""
        cells = cells[cells.scores >= self.thresholds[cells.labels]]
        masks, kept = distinct(cells.masks, cells.scores)
        return Cells(masks, cells.labels[kept], cells.scores[kept])


def _factor(detector, mpp):
    if detector.factor is None:
        raise UserError('the model scales images to one size, and its checkpoint does not tell how large those were '
                        'that it was trained on: give --scale, the factor by which yours are to be enlarged')
    if not mpp or not detector.mpp:
        return detector.factor
    ratio = mpp / detector.mpp
    if not _SCALES[0] <= ratio <= _SCALES[1]:
        raise UserError(f'its pixels are {mpp:g} µm, the model was trained on {detector.mpp:g} µm: that is too far '
                        'apart; give the true size by --mpp, or the enlargement by --scale')
    return detector.factor * ratio


def _note(detector, mpp, scale):
    if scale or mpp or not detector.mpp:
        return ''
    return (f'its pixel size is unknown, and taken to be {detector.mpp:g} µm, which the model was trained on; give it '
            'by --mpp')
