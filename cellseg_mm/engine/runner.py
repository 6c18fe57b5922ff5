"""MMEngine's runner: its console can be read, and it is fast on CPUs."""
import logging

import torch
from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from cellseg_mm.engine.amp import keep_depthwise_float32
from cellseg_mm.engine.config import lay_out
from cellseg_mm.models.checkpoint import starting_weights, with_state_dict


class CellRunner(Runner):
    """Keeps the environment, the whole config, the list of hooks and of all metrics for the log file, off the console.

    So are the options of each parameter, and that SyncBatchNorm is not used, which MMEngine says of every training in
    one process. On a CPU the model computes in the layout and the precision that oneDNN is fast in.

    The config is written to the work dir by `dump_config` when the caller is sure of the run: testing in a training's
    folder must not overwrite its record.
    """

    def __init__(self, *args, **kwargs):
        self._is_built = False
        super().__init__(*args, **kwargs)
        self._is_built = True

    def dump_config(self):
        if self._is_built:
            lay_out(self.cfg, True)
            super().dump_config()
            lay_out(self.cfg, False)

    def build_logger(self, *args, **kwargs):
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            handler.handleError = _raise
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(_is_for_the_console)
        return logger

    def wrap_model(self, model_wrapper_cfg, model):
        if get_device() == 'cpu':
            model.to(memory_format=torch.channels_last)  # the same but for rounding, sooner
            keep_depthwise_float32(model)
        return super().wrap_model(model_wrapper_cfg, model)

    def register_default_hooks(self, hooks=None):
        # MMEngine takes None, for no such hook, of its own hooks only.
        super().register_default_hooks({
            name: hook for name, hook in (hooks or {}).items() if hook is not None or name != 'epoch_loss'})
        self.register_hook(_StartHook())


class _StartHook(Hook):
    """Start a model from those weights of another that fit it."""

    priority = 'HIGHEST'  # before an average of the weights copies them

    def after_load_checkpoint(self, runner, checkpoint):
        if not runner._resume:
            model = runner.model.module if is_model_wrapper(runner.model) else runner.model
            weights = model.state_dict()
            weights.update(starting_weights(model, with_state_dict(checkpoint), runner._load_from))
            checkpoint['state_dict'] = weights  # all of them: MMEngine lists on the console what is missing


def _is_for_the_console(record):
    message = record.getMessage()
    if record.levelno >= logging.WARNING:
        return 'will be deprecated' not in message  # MMEngine's calls of itself
    # After an epoch MMEngine's hook logs every metric in one line.
    is_list_of_metrics = record.module == 'logger_hook' and record.funcName in ('after_val_epoch', 'after_test_epoch')
    return not ('\n' in message or is_list_of_metrics or message.startswith((
        'Exp name: ', 'Distributed training is not used, all SyncBatchNorm', 'paramwise_options -- ')))


def _raise(record):  # noqa: ARG001 -- logging's signature
    # Called while the exception is handled. Logging would print its traceback and go on, on a full disk too.
    raise  # noqa: PLE0704
