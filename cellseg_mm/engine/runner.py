"""MMEngine's runner with a console that can be read."""
import logging

from mmengine.runner import Runner


class CellRunner(Runner):
    """Keeps the environment, the whole config and the list of hooks for the log file, and off the console."""

    def build_logger(self, *args, **kwargs):
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(lambda record: '\n' not in record.getMessage())
        return logger
