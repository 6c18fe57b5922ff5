"""Testing of a checkpoint: scores on the validation split, or a submission for the test split."""
from pathlib import Path

import torch
from mmengine.dist import is_main_process
from mmengine.model import is_model_wrapper
from mmengine.structures import InstanceData
from torch import nn

from cellseg_mm.datasets.cell_dataset import read_cells
from cellseg_mm.datasets.wrappers import pipeline_steps
from cellseg_mm.engine.assessment import assess
from cellseg_mm.engine.config import dataset_config
from cellseg_mm.engine.distributed import prepare_distributed
from cellseg_mm.engine.preflight import canvas_parts, check_data, check_work_dir
from cellseg_mm.engine.runner import CellRunner
from cellseg_mm.errors import UserError
from cellseg_mm.evaluation.operating_point import thresholds_of
from cellseg_mm.evaluation.submission import MAX_PARAMETERS
from cellseg_mm.inference.predictor import Predictor
from cellseg_mm.io.work_dir import RESULTS_NAME
from cellseg_mm.models.checkpoint import check_checkpoint_classes, check_weights, read_checkpoint


def validate(config, checkpoint, work_dir, launcher='none', views=()):
    """Predict the validation split and evaluate that.

    Args:
        config (Config): A config from `load_config`.
        checkpoint (str | Path): Weights of that config's model.
        work_dir (str | Path): Takes `val-results.json`, the predictions as COCO results, and `val-evaluation.json`.
        launcher (str): `none`, or how the processes of a distributed run were started.
        views (Sequence[str]): Test-time augmentation, as `Predictor` has it, tile by tile; none by default.

    Returns:
        dict: Of `evaluate`; None on other ranks than the first.

    Raises:
        UserError: Before any work is done, for all that the user can mend.
    """
    config.test_dataloader, config.test_evaluator = config.val_dataloader, config.val_evaluator
    config.test_evaluator.results_file = str(Path(work_dir, RESULTS_NAME))
    evaluator = config.val_evaluator
    runner = _runner(config, checkpoint, work_dir, launcher, 'val')
    _use_views(views, runner, config, checkpoint, 'val')
    thresholds_of(checkpoint, config.classes, views)  # broken ones are told before all has been predicted
    runner.test()
    if not is_main_process():
        return None
    config.val_evaluator = evaluator
    return assess(config, work_dir, checkpoint, views=views)


def submit(config, checkpoint, work_dir, launcher='none', views=()):
    """Predict the test split and write the submission, checked.

    Args:
        config (Config): A config from `load_config`.
        checkpoint (str | Path): Weights of that config's model.
        work_dir (str | Path): Takes `test-results.json` and `test-results.zip`.
        launcher (str): `none`, or how the processes of a distributed run were started.
        views (Sequence[str]): Test-time augmentation, as `Predictor` has it, tile by tile; none by default.

    Returns:
        SubmissionSummary: What was written; None on other ranks than the first.

    Raises:
        UserError: Before any work is done, for all that the user can mend; or for a submission that is not valid.
    """
    config.test_evaluator.out_dir = str(work_dir)
    runner = _runner(config, checkpoint, work_dir, launcher, 'test')
    submission, = runner.test_evaluator.metrics
    submission.num_parameters = sum(parameter.numel() for parameter in runner.model.parameters())
    if submission.num_parameters >= MAX_PARAMETERS:
        raise UserError(f'the model has {submission.num_parameters:,} parameters; a submission must stay under '
                        f'{MAX_PARAMETERS:,.0f}: use a smaller backbone')
    _use_views(views, runner, config, checkpoint, 'test')
    runner.test()
    return submission.summary


def split_annotations(config, split):
    """Return the annotations of a split (`train`, `val` or `test`), as `read_cells` gives them."""
    return read_cells(Path(config.data_root, dataset_config(config, split).ann_file))


def _runner(config, path, work_dir, launcher, split):
    check_data(config, (split, ))
    checkpoint = read_checkpoint(path)
    check_checkpoint_classes(checkpoint, config.classes, path)
    check_work_dir(work_dir)
    config.work_dir = str(work_dir)
    config.load_from, config.resume = None, False
    for part in ('train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler', 'val_dataloader', 'val_cfg',
                 'val_evaluator'):
        config[part] = None
    prepare_distributed(config, launcher)
    runner = CellRunner.from_cfg(config)
    if parts := canvas_parts(config):
        runner.logger.warning('a canvas for each cell takes memory and time: use %s in the config', ', '.join(
            f'{ours} for {stock}' for stock, ours in dict.fromkeys(parts.values())))
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    check_weights(model, checkpoint, path)
    model.load_state_dict(checkpoint['state_dict'])
    return runner


def _use_views(views, runner, config, checkpoint, split):
    """Put a predictor in place of the model if there are views: the model is built by then, and fits."""
    if not views:
        return
    predictor = Predictor(checkpoint, config=config, views=views, background=True)
    if predictor.factor is None:
        raise UserError(f'{checkpoint}: views look at images tile by tile, enlarged by one factor, and neither the '
                        'config nor the checkpoint tells one: its Resize is to have a scale_factor')
    for place, step in pipeline_steps(config.test_dataloader.dataset, f'{split}_dataloader.dataset'):
        if 'img_path' not in step.get('meta_keys', ('img_path', )):
            raise UserError(f'{place} ({step["type"]}).meta_keys lacks img_path, by which views read the image: add it')
    runner.model = _AugmentedModel(predictor)


class _AugmentedModel(nn.Module):
    """In place of a model: what a predictor finds in the files of a batch, in all its views."""

    def __init__(self, predictor):
        super().__init__()
        self._predictor = predictor

    def test_step(self, data):
        for sample in data['data_samples']:
            # Training knows images by their pixels alone.
            found = self._predictor.detect(sample.img_path, self._predictor.mpp)
            sample.pred_instances = InstanceData(
                bboxes=found.masks.get_bboxes().tensor, labels=torch.from_numpy(found.labels),
                scores=torch.from_numpy(found.scores), masks=found.masks)
        return data['data_samples']
