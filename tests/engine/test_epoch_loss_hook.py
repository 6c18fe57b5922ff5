import logging
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub, MMLogger
from mmengine.logging.logger import FilterDuplicateWarning
from torch import nn

from cellseg_mm.engine import epoch_loss_hook
from cellseg_mm.engine.epoch_loss_hook import EpochLossHook, validation_losses
from cellseg_mm.engine.seeding import random_state
from cellseg_mm.errors import CellDataError


class Detector(nn.Module):
    """Its losses depend on the weights, the image and chance; computing them leaves traces in it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.register_buffer('seen', torch.zeros(1))
        self.dropout = nn.Dropout(0.5)

    def data_preprocessor(self, batch, training):
        assert not training
        return batch

    def forward(self, inputs, data_samples, mode):  # noqa: ARG002 -- MMDetection's signature
        assert mode == 'loss'
        self.seen += 1
        drawn = random.random() + np.random.random() + torch.rand(1)  # noqa: NPY002 -- as samplers draw
        return {'loss_a': self.dropout(self.weight * inputs[0]).sum(), 'loss_b': drawn.sum(), 'acc': torch.ones(1)}

    def parse_losses(self, losses):
        return None, {'loss': losses['loss_a'] + losses['loss_b'], **losses}


def batch_of(*values):
    sample = SimpleNamespace(gt_instances={'bboxes': torch.zeros(0, 4)})
    return {'inputs': [torch.full((100, ), float(value)) for value in values], 'data_samples': [sample for _ in values]}


class Lines(logging.Handler):

    def __init__(self):
        super().__init__()
        self.addFilter(FilterDuplicateWarning())
        self.lines = []

    def emit(self, record):
        self.lines.append((record.levelname, record.getMessage()))


def run_epoch(hook, model, batches=(), losses=None, images=(1, ), metrics=None, epochs=1):
    """Call the hook as training and validation do; returns what was logged: values, lines."""
    logged, lines = {}, Lines()
    logger = MMLogger(str(id(lines)))
    logger.handlers = [lines]
    runner = SimpleNamespace(
        model=model, epoch=0, max_epochs=3, val_loop=object(), val_dataloader=batches, logger=logger,
        message_hub=MessageHub.get_instance('epoch_loss_hook'),
        visualizer=SimpleNamespace(add_scalars=lambda values, step: logged.update(values, step=step)))
    hook.before_train(runner)
    for _ in range(epochs):
        hook.before_train_epoch(runner)
        for values, count in zip(losses or [{'loss': torch.tensor(1.0)}], images, strict=True):
            hook.after_train_iter(runner, 0, batch_of(*range(count)), values)
        hook.after_train_epoch(runner)
        runner.epoch += 1
        if metrics:
            hook.after_val_epoch(runner, metrics)
    hook.after_train(runner)
    return logged, lines.lines


def test_training_losses_are_means_over_images_not_over_batches():
    losses = [{'loss': torch.tensor(value), 'loss_a': torch.tensor(value / 2), 'acc': torch.tensor(9.0)}
              for value in (1.0, 4.0)]
    logged, _ = run_epoch(EpochLossHook(), Detector(), losses=losses, images=(2, 1))
    assert logged == {'epoch/train_loss': 2.0, 'epoch/train_loss_a': 1.0, 'step': 1}


def test_validation_losses_are_means_over_images_in_evaluation_mode():
    logged, _ = run_epoch(EpochLossHook(), Detector(), [batch_of(1), batch_of(2), batch_of(6)])
    assert logged['epoch/val_loss_a'] == pytest.approx(300)  # with dropout it would be another number
    assert logged['epoch/val_loss'] == pytest.approx(300 + logged['epoch/val_loss_b'])
    assert 'epoch/val_acc' not in logged


def test_two_epochs_draw_the_same_proposals_in_whatever_order_of_images():
    batches = [batch_of(1), batch_of(2)]
    first, second = (run_epoch(EpochLossHook(), Detector(), order)[0] for order in (batches, batches[::-1]))
    assert first == second


def test_training_cannot_tell_that_the_hook_was_there():
    model = Detector().train()
    state = random_state()
    run_epoch(EpochLossHook(), model, [batch_of(1)])
    after = random_state()
    assert torch.equal(after.pop('torch'), state.pop('torch'))
    assert after == state
    assert model.training
    assert model.dropout.training
    assert model.seen == 0
    assert model.weight.grad is None


def test_a_detector_without_a_loss_in_evaluation_mode_costs_the_value_and_says_why():
    class Picky(Detector):
        def forward(self, *args, **kwargs):
            if not self.training:
                raise RuntimeError('only\nwhile training')
            return super().forward(*args, **kwargs)

    state = torch.get_rng_state()
    logged, lines = run_epoch(EpochLossHook(), Picky(), [batch_of(1), batch_of(2)], epochs=2)
    assert logged == {'epoch/train_loss': 1.0, 'step': 2}
    assert [level for level, _ in lines].count('WARNING') == 1
    assert lines[0] == ('WARNING', 'no validation loss: RuntimeError: only while training')
    assert 'Traceback' in lines[1][1]
    assert lines[2] == ('INFO', 'Epoch 1 of 3: loss 1.000 in training')
    assert torch.equal(torch.get_rng_state(), state)


def test_a_pipeline_that_loads_no_cells_is_named():
    batch = batch_of(1)
    batch['data_samples'][0].gt_instances = {}
    _, lines = run_epoch(EpochLossHook(), Detector(), [batch])
    assert "add dict(type='LoadCellAnnotations') to it, after LoadTiffImage" in lines[0][1]


def test_an_image_that_cannot_be_read_ends_training_as_it_would_in_validation():
    def broken():
        yield batch_of(1)
        raise CellDataError('image.tif', 'cut short', 'copy it again')

    with pytest.raises(CellDataError, match=r'image\.tif'):
        run_epoch(EpochLossHook(), Detector(), broken())


def test_processes_add_up_their_images(monkeypatch):
    other = {'images': 3, 'loss': 6.0, 'loss_b': 3.0}
    monkeypatch.setattr(epoch_loss_hook, 'all_gather_object',
                        lambda value: [value, other] if isinstance(value, dict) else [value])
    logged, _ = run_epoch(EpochLossHook(), Detector(), losses=[{'loss': torch.tensor(2.0)}], images=(1, ))
    assert logged['epoch/train_loss'] == 2.0
    assert logged['epoch/train_loss_b'] == 0.75


def test_a_failure_in_one_process_is_one_of_all(monkeypatch):
    monkeypatch.setattr(epoch_loss_hook, 'all_gather_object',
                        lambda value: [value] if isinstance(value, dict) else [value, ('Error: there', 'Traceback')])
    logged, lines = run_epoch(EpochLossHook(), Detector(), [batch_of(1)])
    assert 'epoch/val_loss' not in logged
    assert 'Error: there' in lines[0][1]


def test_one_line_tells_of_an_epoch():
    scores = {'cells/AP50_dense': 0.4117, 'cells/AP50_cap100': 0.398, 'cells/AP_dense': 0.2}
    MessageHub.get_instance('epoch_loss_hook').update_info('best_epoch', 1)
    logged, lines = run_epoch(EpochLossHook(), Detector(), [batch_of(0)], metrics=scores)
    (level, line), = lines
    assert level == 'INFO'
    assert line == (f'Epoch 1 of 3: loss 1.000 in training, {logged["epoch/val_loss"]:.3f} in validation; '
                    'AP50 0.412 dense, 0.398 at cap 100, the best so far')


@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_logged_as_it_is_and_warned_of_each_time(value):
    logged, lines = run_epoch(EpochLossHook(), Detector(), losses=[{'loss': torch.tensor(value)}], epochs=2)
    assert not math.isfinite(logged['epoch/train_loss'])
    for epoch, (level, line) in enumerate(lines, 1):
        assert level == 'WARNING'
        assert line.startswith(f'Epoch {epoch} of 3: ')
        assert 'a loss is not finite: lower the learning rate' in line
    assert len(lines) == 2


def test_masks_are_padded_as_in_training():
    class Preprocessor:
        pad_mask = True

        def __call__(self, batch, training):  # noqa: ARG002
            return batch

        def pad_gt_masks(self, samples):
            padded.extend(samples)

    padded, model, batch = [], Detector(), batch_of(1)
    model.data_preprocessor = Preprocessor()
    validation_losses(model, batch)
    assert padded == batch['data_samples']
