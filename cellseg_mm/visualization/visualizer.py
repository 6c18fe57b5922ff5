"""MMDetection's visualizer, for images of many small cells."""
from pathlib import Path

import cv2
import numpy as np
from mmdet.registry import VISUALIZERS
from mmdet.visualization import DetLocalVisualizer
from mmengine.dist import master_only

from cellseg_mm.errors import UserError
from cellseg_mm.io.files import atomic_path
from cellseg_mm.structures.local_masks import as_local_masks
from cellseg_mm.visualization.overlay import (
    class_colours,
    compare,
    draw_boxes,
    draw_instances,
    draw_texts,
    enlarge,
    readable_scale,
)


@VISUALIZERS.register_module()
class CellVisualizer(DetLocalVisualizer):
    """Shows an image beside the same with its cells outlined, counted in the legend, and named where they are few.

    Boxes are drawn only where there are no masks. Colours are those of the data set's `palette`, or where it has none
    `class_colours`.

    Args:
        name (str): Of the instance.
        vis_backends (list[dict], optional): Where pictures go that have no `out_file`.
        save_dir (str, optional): The backends' folder.
    """

    def __init__(self, name='visualizer', vis_backends=None, save_dir=None):
        super().__init__(name, vis_backends=vis_backends, save_dir=save_dir)

    @master_only
    def add_datasample(self, name, image, data_sample=None, draw_gt=True, draw_pred=True, show=False, wait_time=0,
                       out_file=None, pred_score_thr=0.3, step=0):
        """Draw an image's ground truth and predictions, as far as there are any, each in a panel of its own.

        Args:
            name (str): Of the picture.
            image (numpy.ndarray): (H, W, 3) RGB, 0 to 255.
            data_sample (DetDataSample, optional): Its `gt_instances` and `pred_instances` are drawn; their masks may
                have any form that `as_local_masks` takes.
            draw_gt (bool): Whether to draw the ground truth.
            draw_pred (bool): Whether to draw predictions.
            show (bool): Whether to show the picture in a window.
            wait_time (float): For how many seconds; 0 waits for a key.
            out_file (str, optional): Where to write the picture, instead of handing it to the backends.
            pred_score_thr (float): Predictions below this score are left out.
            step (int): For the backends.

        Raises:
            UserError: If masks are of another size than the image.
        """
        image = np.ascontiguousarray(image[..., ::-1].clip(0, 255).astype(np.uint8))
        sides = []
        if draw_gt and 'labels' in getattr(data_sample, 'gt_instances', ()):
            sides.append(('Ground truth', 'true', data_sample.gt_instances, None))
        if draw_pred and 'labels' in getattr(data_sample, 'pred_instances', ()):
            sides.append((f'Prediction, score ≥ {pred_score_thr:g}', 'predicted', data_sample.pred_instances,
                          pred_score_thr))
        classes = list(self.dataset_meta.get('classes') or ())
        labels = [max(instances.labels.tolist(), default=-1) for _, _, instances, _ in sides]
        classes += [f'class {label}' for label in range(len(classes), max(labels, default=-1) + 1)]
        colours = self._colours(len(classes))
        drawn = compare(image, [(title, word, *_draw(image, instances, threshold, classes, colours))
                                for title, word, instances, threshold in sides], classes, colours)
        picture = np.ascontiguousarray(drawn[..., ::-1])
        self.set_image(picture)
        if show:
            self.show(picture, win_name=name, wait_time=wait_time)
        if out_file is None:
            self.add_image(name, picture, step)
        else:
            with atomic_path(out_file) as partial:
                partial.write_bytes(cv2.imencode(Path(out_file).suffix, drawn)[1].tobytes())

    def _colours(self, count):
        palette = self.dataset_meta.get('palette')
        # MMDetection also has words for palettes.
        if isinstance(palette, str) or palette is None or len(palette) < count:
            return class_colours(count)
        return [tuple(int(part) for part in colour[::-1]) for colour in palette]


def _draw(image, instances, threshold, classes, colours):
    """The image with the instances whose score is high enough, and their labels."""
    labels, scale, scores = np.array(instances.labels.tolist(), int), readable_scale(image.shape), None
    chosen = np.arange(len(labels))
    if threshold is not None:
        scores = np.array(instances.scores.tolist())
        chosen = np.flatnonzero(scores >= threshold)
    if 'masks' in instances:
        masks = as_local_masks(instances.masks, *image.shape[:2])
        if (masks.height, masks.width) != image.shape[:2]:
            raise UserError(f'masks of {masks.height} x {masks.width} pixels do not fit the image of '
                            f'{image.shape[0]} x {image.shape[1]}: load annotations after Resize, and predict with '
                            'rescale=True')
        chosen = chosen[masks.boxes[chosen, 2] > 0]
        drawn = draw_instances(image, masks[chosen].crops(), labels[chosen], colours, scale)
        corners = masks.boxes[chosen, :2]
    else:
        boxes = np.array(getattr(instances.bboxes, 'tensor', instances.bboxes).tolist()).reshape(-1, 4)[chosen]
        drawn = draw_boxes(enlarge(image, scale), boxes, labels[chosen], colours, scale)
        corners = boxes[:, :2].round().astype(int)
    texts = [classes[labels[i]] if scores is None else f'{classes[labels[i]]} {scores[i]:.2f}' for i in chosen]
    return draw_texts(drawn, corners * scale, texts), labels[chosen].tolist()
