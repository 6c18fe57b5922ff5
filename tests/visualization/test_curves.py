import math
from itertools import pairwise

import cv2
import matplotlib.figure
import pytest
from mmengine.visualization import LocalVisBackend

from cellseg_mm.errors import UserError
from cellseg_mm.visualization import curves

ITERATIONS = 25
NAN = math.nan


def write_run(work_dir, stamp, epochs, loss=1.0, interval=10, classes=('round', 'long'), rates=lambda _: 0.01,
              validation=None):
    """Log as MMEngine's LoggerHook does: a record each `interval` iterations of an epoch, one after its validation.

    With `validation`, a validation loss, also as `EpochLossHook` does.
    """
    backend = LocalVisBackend(str(work_dir / stamp / 'vis_data'))
    for epoch in epochs:
        for inner in range(interval, ITERATIONS + 1, interval):
            step = (epoch - 1) * ITERATIONS + inner
            backend.add_scalars({'lr': rates(epoch), 'data_time': 0.1, 'loss': loss, 'loss_cls': 0.75 * loss,
                                 'loss_mask': 0.25 * loss, 'time': 1.0, 'epoch': epoch, 'iter': step}, step=step)
        if validation is not None:
            means = {}
            for split, value in (('train', loss), ('val', validation)):
                means |= {f'epoch/{split}_loss': value, f'epoch/{split}_loss_cls': 0.75 * value,
                          f'epoch/{split}_loss_mask': 0.25 * value}
            backend.add_scalars(means, step=epoch)
        quality = 0.5 - 0.05 * abs(epoch - 3)
        scores = {f'cells/AP50_dense/{name}': quality + 0.1 * index for index, name in enumerate(classes)}
        backend.add_scalars({'cells/AP50_dense': quality, 'cells/AP50_cap100': 0.8 * quality, 'cells/AP_dense': 0.1}
                            | scores | {'time': 0.1}, step=epoch)
    return work_dir / stamp / 'vis_data' / 'scalars.json'


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved."""
    figures = []
    save = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(matplotlib.figure.Figure, 'savefig',
                        lambda self, *args, **kwargs: (figures.append(self), save(self, *args, **kwargs)))
    return figures


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_training_and_validation_records_are_told_apart(tmp_path):
    write_run(tmp_path, '20260101_000000', range(1, 4))
    training, validation = curves.read_log(tmp_path)
    assert [record['step'] for record in training] == [10, 20, 35, 45, 60, 70]
    assert [record['step'] for record in validation] == [1, 2, 3]
    assert validation[0]['cells/AP50_dense/long'] == pytest.approx(0.5)


def test_a_resumed_run_wins_from_the_epoch_it_starts_with(tmp_path):
    write_run(tmp_path, '20260101_000000', range(1, 6), loss=1.0)
    write_run(tmp_path, '20260102_000000', range(3, 5), loss=2.0, interval=12)
    training, validation = curves.read_log(tmp_path)
    assert [(record['epoch'], record['loss']) for record in training] == [
        (1, 1), (1, 1), (2, 1), (2, 1), (3, 2), (3, 2), (4, 2), (4, 2)]
    assert [record['step'] for record in validation] == [1, 2, 3, 4]


def test_a_training_started_anew_leaves_nothing_of_the_old(tmp_path):
    write_run(tmp_path, '20260101_000000', range(1, 6), loss=1.0)
    write_run(tmp_path, '20260102_000000', range(1, 3), loss=2.0)
    training, validation = curves.read_log(tmp_path)
    assert {record['loss'] for record in training} == {2.0}
    assert len(validation) == 2


def test_a_later_validation_alone_changes_nothing(tmp_path):
    write_run(tmp_path, '20260101_000000', range(1, 3))
    before = curves.read_log(tmp_path)
    LocalVisBackend(str(tmp_path / '20260102_000000' / 'vis_data')).add_scalars({'cells/AP50_dense': 0.9}, step=0)
    assert curves.read_log(tmp_path) == before


def test_half_a_line_of_a_killed_run_is_passed_over(tmp_path):
    log = write_run(tmp_path, '20260101_000000', range(1, 3))
    whole = curves.read_log(tmp_path)
    with log.open('a') as file:
        file.write('{"lr": 0.01, "loss": 0.')
    assert curves.read_log(tmp_path) == whole


@pytest.mark.parametrize('content', [None, '', 'null\n3\n'])
def test_without_a_log_the_user_is_told(tmp_path, content):
    if content is not None:
        (tmp_path / 'stamp' / 'vis_data').mkdir(parents=True)
        (tmp_path / 'stamp' / 'vis_data' / 'scalars.json').write_text(content)
    with pytest.raises(UserError, match='there is no training log'):
        curves.plot_curves(tmp_path, tmp_path / 'curves.png')
    assert not (tmp_path / 'curves.png').exists()


def test_the_plot_names_every_line_and_marks_the_best_epoch(tmp_path, drawn):
    write_run(tmp_path, '20260101_000000', range(1, 6), rates=lambda epoch: 0.01 if epoch < 4 else 0.001)
    curves.plot_curves(tmp_path, tmp_path / 'out' / 'curves.png')
    height, width, _ = cv2.imread(str(tmp_path / 'out' / 'curves.png')).shape
    assert width > height > 1000
    losses, scores, parts, _ = drawn[0].axes
    assert set(texts(losses)) == {'training 1.00', 'lr 0.001'}
    assert set(texts(parts)) == {'cls 0.75', 'mask 0.25', 'lr 0.001'}
    assert set(texts(scores)) == {'round 0.40', 'long 0.50', 'mean, dense cap 0.40', 'mean, cap 100 0.32', 'lr 0.001'}
    assert scores.get_title('right') == 'best 0.500 at epoch 3'
    total = next(line for line in losses.lines if line.get_linewidth() > 2)
    assert total.get_xdata() == pytest.approx([(25 * epoch + inner) / 25 for epoch in range(5) for inner in (10, 20)])


def test_validation_loss_stands_beside_training_loss_epoch_by_epoch(tmp_path, drawn):
    write_run(tmp_path, '20260101_000000', range(1, 4), validation=1.5)
    curves.plot_curves(tmp_path, tmp_path / 'curves.png')
    losses, _, parts, _ = drawn[0].axes
    assert set(texts(losses)) == {'training 1.00', 'validation 1.50'}
    assert set(texts(parts)) == {'cls 0.75', 'cls, val. 1.12', 'mask 0.25', 'mask, val. 0.38'}
    for line in (line for line in losses.lines if line.get_marker() == '.'):
        assert line.get_xdata().tolist() == [1, 2, 3]


def test_epochs_without_a_validation_loss_leave_a_gap(tmp_path, drawn):
    backend = LocalVisBackend(str(tmp_path / 'stamp' / 'vis_data'))
    for epoch, validated in ((1, {'epoch/val_loss': 2.0}), (2, {}), (3, {'epoch/val_loss': NAN})):
        backend.add_scalars({'loss': 1.0, 'epoch': epoch, 'iter': epoch}, step=epoch)
        backend.add_scalars({'epoch/train_loss': 1.0} | validated, step=epoch)
    assert ['epoch/val_loss' in record for record in curves.read_epochs(tmp_path)] == [True, False, True]
    curves.plot_curves(tmp_path, tmp_path / 'curves.png')
    assert set(texts(drawn[0].axes[0])) == {'training 1.00', 'validation 2.00'}


def test_the_epochs_of_a_resumed_run_are_joined(tmp_path):
    write_run(tmp_path, '20260101_000000', range(1, 6), loss=1.0, validation=1.0)
    write_run(tmp_path, '20260102_000000', range(3, 5), loss=2.0, validation=3.0)
    assert [(record['step'], record['epoch/train_loss'], record['epoch/val_loss'])
            for record in curves.read_epochs(tmp_path)] == [(1, 1, 1), (2, 1, 1), (3, 2, 3), (4, 2, 3)]


def test_a_rate_that_falls_in_steps_to_a_tenth_has_a_logarithmic_axis(tmp_path, drawn):
    write_run(tmp_path / 'a', '20260101_000000', range(1, 7), rates=lambda epoch: 0.1 ** (1 + epoch // 2))
    write_run(tmp_path / 'b', '20260101_000000', range(1, 7), rates=lambda epoch: 0.01 / epoch)
    for name in 'ab':
        curves.plot_curves(tmp_path / name, tmp_path / f'{name}.png')
    assert [figure.axes[3].get_yscale() for figure in drawn] == ['log', 'linear']


def test_labels_of_lines_that_end_together_do_not_overlap(tmp_path, drawn):
    classes = [f'class number {index}' for index in range(12)]
    write_run(tmp_path, '20260101_000000', [1], classes=classes, validation=1.0)
    curves.plot_curves(tmp_path, tmp_path / 'curves.png')
    for axes in drawn[0].axes:
        boxes = sorted((text.get_window_extent() for text in axes.texts), key=lambda box: box.y0)
        assert all(below.y1 <= above.y0 for below, above in pairwise(boxes))
    assert len(drawn[0].axes[1].texts) == 14


def test_classes_without_a_score_are_left_out(tmp_path, drawn):
    backend = LocalVisBackend(str(tmp_path / 'stamp' / 'vis_data'))
    backend.add_scalars({'loss': NAN, 'loss_cls': 1.0, 'loss_bbox': NAN, 'epoch': 1, 'iter': 5}, step=5)
    scores = {'cells/AP50_dense': 0.25, 'cells/AP50_dense/here': 0.25, 'cells/AP50_dense/absent': NAN}
    backend.add_scalars(scores, step=1)
    curves.plot_curves(tmp_path, tmp_path / 'curves.png')
    losses, scores, parts, _ = drawn[0].axes
    assert texts(losses) == []
    assert texts(parts) == ['cls 1.00']
    assert set(texts(scores)) == {'here 0.25', 'mean, dense cap 0.25'}


def test_a_run_without_validation_or_epochs_is_plotted_over_iterations(tmp_path, drawn):
    backend = LocalVisBackend(str(tmp_path / 'stamp' / 'vis_data'))
    for step in (1, 2, 3):
        backend.add_scalars({'loss': 1.0 / step, 'iter': step}, step=step)
    curves.plot_curves(tmp_path, tmp_path / 'curves.png')
    losses, scores, _, rates = drawn[0].axes
    assert losses.get_xlabel() == 'iteration'
    assert texts(scores) == ['no validation yet']
    assert texts(rates) == ['not logged']
    assert losses.lines[0].get_xdata().tolist() == [1, 2, 3]


def test_a_huge_first_loss_does_not_press_the_rest_flat(tmp_path, drawn):
    backend = LocalVisBackend(str(tmp_path / 'stamp' / 'vis_data'))
    for step in range(1, 101):
        backend.add_scalars({'loss': 500.0 if step < 3 else 1.0, 'epoch': 1, 'iter': step}, step=step)
    curves.plot_curves(tmp_path, tmp_path / 'curves.png')
    assert 1 < drawn[0].axes[0].get_ylim()[1] < 3


def test_steps_of_the_learning_rate_are_marked_and_a_smooth_decline_is_not(tmp_path, drawn):
    write_run(tmp_path / 'steps', '20260101_000000', range(1, 7), rates=lambda epoch: 0.01 if epoch < 4 else 0.001)
    write_run(tmp_path / 'smooth', '20260101_000000', range(1, 7), interval=25, rates=lambda epoch: 0.01 / 3**epoch)
    for name in ('steps', 'smooth'):
        curves.plot_curves(tmp_path / name, tmp_path / f'{name}.png')
    marked = [any('lr' in text for axes in figure.axes for text in texts(axes)) for figure in drawn]
    assert marked == [True, False]
