"""The losses of training and of validation, side by side."""
import logging
import math
import random
import traceback
from collections import Counter
from copy import deepcopy

import numpy as np
import torch
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS

from cellseg_mm.engine.seeding import random_state, set_random_state


@HOOKS.register_module()
class EpochLossHook(Hook):
    """Log each epoch's losses on the training and the validation images, and print a line on the epoch.

    `epoch/train_loss` is the mean over the images that the epoch trained on, augmented, and while the weights changed.
    `epoch/val_loss` is that of the validation images as they are predicted, with the weights after the epoch (with
    `EMAHook` too, whose averaged weights are what the metrics beside it are of). So the two need not meet: a validation
    loss that rises while training's falls is what tells of overfitting. Their parts have names such as
    `epoch/val_loss_cls`; the step is the epoch. In a distributed run the images that fill up the last round of
    validation count twice.

    Training goes on as if the hook were not there: a copy of the model computes the validation loss, and the random
    states are put back. A model that fails in it costs the epoch's `epoch/val_loss`; a warning says why, once.

    The validation pipeline has to load the cells.
    """

    def before_train(self, runner):  # noqa: ARG002 -- MMEngine's signature
        self._means, self._scores = {}, {}

    def before_train_epoch(self, runner):
        self._print_epoch(runner)
        self._sums = {}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):  # noqa: ARG002
        _add(self._sums, outputs, len(data_batch['inputs']))

    def after_train_epoch(self, runner):
        self._means = {f'epoch/train_{name}': mean for name, mean in _means(self._sums).items()}
        if runner.val_loop is not None:
            self._means |= {f'epoch/val_{name}': mean for name, mean in _validation_means(runner).items()}
        runner.visualizer.add_scalars(self._means, step=runner.epoch + 1)

    def after_val_epoch(self, runner, metrics=None):  # noqa: ARG002
        self._scores = metrics

    def after_train(self, runner):
        self._print_epoch(runner)

    def _print_epoch(self, runner):
        if not self._means:
            return
        losses = {word: self._means[key] for word, key in (
            ('training', 'epoch/train_loss'), ('validation', 'epoch/val_loss')) if key in self._means}
        scores = [f'{self._scores[key]:.3f} {cap}' for key, cap in (
            ('cells/AP50_dense', 'dense'), ('cells/AP50_cap100', 'at cap 100')) if key in self._scores]
        parts = ['loss ' + ', '.join(f'{loss:.3f} in {word}' for word, loss in losses.items())]
        if scores:
            is_best = runner.message_hub.runtime_info.get('best_epoch') == runner.epoch
            parts.append(f'AP50 {", ".join(scores)}{", the best so far" if is_best else ""}')
        diverged = not all(map(math.isfinite, losses.values()))
        if diverged:
            parts.append('a loss is not finite: lower the learning rate, or clip gradients by optim_wrapper.clip_grad')
        # Formatted here, since MMEngine leaves out warnings whose message it has seen, whatever their arguments.
        line = f'Epoch {runner.epoch} of {runner.max_epochs}: {"; ".join(parts)}'
        runner.logger.log(logging.WARNING if diverged else logging.INFO, line)
        self._means, self._scores = {}, {}


def validation_losses(model, batch):
    """Compute a detector's losses on a batch as it is predicted: no augmentation, no gradient.

    Args:
        model (BaseDetector): In evaluation mode.
        batch (dict): `inputs` and `data_samples` with the true cells, as a data loader gives them.

    Returns:
        dict[str, Tensor]: `loss`, the sum, and its parts.

    Raises:
        ValueError: If the samples are without cells' boxes, which an image without a cell has too.
    """
    if not all('bboxes' in sample.gt_instances for sample in batch['data_samples']):
        raise ValueError("the validation pipeline loads no cells; add dict(type='LoadCellAnnotations') to it, after "
                         'LoadTiffImage')
    with torch.no_grad():
        data = model.data_preprocessor(batch, training=False)
        if getattr(model.data_preprocessor, 'pad_mask', False):  # done for training alone
            model.data_preprocessor.pad_gt_masks(data['data_samples'])
        return model.parse_losses(model(**data, mode='loss'))[1]


def _validation_means(runner):
    sums, failure = {}, None
    state = random_state()
    try:
        for batch in runner.val_dataloader:
            try:
                if not sums:
                    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
                    model = deepcopy(model).eval()
                # The same proposals are drawn at every epoch, and however many processes share the images.
                random.seed(0)
                np.random.seed(0)  # noqa: NPY002 -- MMDetection's samplers draw from the global state
                torch.manual_seed(0)
                _add(sums, validation_losses(model, batch), len(batch['inputs']))
            except Exception as error:  # of whatever detector; training does not depend on it
                failure = ' '.join(f'{type(error).__name__}: {error}'.split()), traceback.format_exc()
                break
    finally:
        set_random_state(state)
    for failed in filter(None, all_gather_object(failure)):
        runner.logger.warning(f'no validation loss: {failed[0]}')  # noqa: G004 -- once for each reason
        runner.logger.info(failed[1])  # several lines, which the console leaves out
        sums = {}
    return _means(sums)


def _add(sums, losses, images):
    sums['images'] = sums.get('images', 0) + images
    for name, value in losses.items():
        if 'loss' in name:  # not the accuracy beside them
            sums[name] = sums.get(name, 0) + images * value.detach().double()


def _means(sums):
    """Divide what `_add` summed by the number of images, over all processes."""
    total = Counter()
    for of_process in all_gather_object({name: float(value) for name, value in sums.items()}):
        total.update(of_process)
    images = total.pop('images', None)
    return {name: value / images for name, value in total.items()}
