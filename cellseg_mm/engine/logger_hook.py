"""MMEngine's log, written by one process."""
from mmengine.dist import master_only
from mmengine.hooks import LoggerHook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class MasterLoggerHook(LoggerHook):
    """MMEngine's `LoggerHook`, but that the first process alone writes the metrics of a test.

    There all processes write them, at once and to one file, which is then no JSON where their times differ in length.
    """

    @master_only
    def after_test_epoch(self, runner, metrics=None):
        super().after_test_epoch(runner, metrics)
