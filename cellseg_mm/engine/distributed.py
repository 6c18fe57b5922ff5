"""One distributed engine, torch.distributed under torchrun, on GPUs and on CPUs."""
import os

import torch
from torch import distributed

from cellseg_mm.errors import UserError


def prepare_distributed(config, launcher):
    """Set a config up for `launcher`, on processes without a GPU too.

    MMEngine assumes a GPU for each process: it selects one before it opens the process group, and names one to
    DistributedDataParallel.

    Args:
        config (Config): Changed in place.
        launcher (str): `none`, `pytorch` (torchrun), `slurm` or `mpi`.

    Raises:
        UserError: If `pytorch` is asked for outside torchrun.
    """
    config.launcher = launcher
    if launcher == 'pytorch' and 'RANK' not in os.environ:
        raise UserError('--launcher pytorch needs torchrun: torchrun --nproc-per-node N tools/... --launcher pytorch')
    if launcher == 'none' or torch.cuda.is_available():
        return
    if launcher != 'pytorch':
        raise UserError(f'--launcher {launcher} needs GPUs; on CPUs use torchrun with --launcher pytorch')
    if not distributed.is_initialized():
        distributed.init_process_group('gloo')
    config.model_wrapper_cfg = dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)
