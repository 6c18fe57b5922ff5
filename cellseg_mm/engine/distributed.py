"""One distributed engine, torch.distributed under torchrun, on GPUs and on CPUs."""
import os
from datetime import timedelta

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
    if launcher == 'pytorch':
        _check_torchrun()
    if launcher == 'none' or torch.cuda.is_available():
        return
    if launcher != 'pytorch':
        raise UserError(f'--launcher {launcher} needs GPUs; on CPUs use torchrun with --launcher pytorch')
    if not distributed.is_initialized():
        distributed.init_process_group('gloo')
    config.model_wrapper_cfg = dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)


def open_process_group(launcher):
    """Join the processes of `torchrun`, for work that only exchanges Python objects.

    Args:
        launcher (str): `none` or `pytorch`.

    Returns:
        tuple[int, int]: The rank of this process, and how many there are.

    Raises:
        UserError: If `pytorch` is asked for outside torchrun.
    """
    if launcher == 'none':
        return 0, 1
    _check_torchrun()
    # Gloo on GPUs too: objects travel by the CPU. One process may wait for days until the others are done.
    distributed.init_process_group('gloo', timeout=timedelta(days=30))
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ['LOCAL_RANK']) % torch.cuda.device_count())
    return distributed.get_rank(), distributed.get_world_size()


def on_all(function, world):
    """Call a function in each process, and go on only where none met an error that the user can mend.

    Args:
        function (Callable): Without arguments.
        world (int): How many processes there are.

    Returns:
        What the function gives in this process.

    Raises:
        UserError, OSError: In all processes, the first that any of them met.
    """
    value = problem = None
    try:
        value = function()
    except (UserError, OSError) as error:
        problem = error
    if problems := list(filter(None, gather(problem, world))):
        raise problems[0]
    return value


def gather(value, world):
    """What each process has, on all of them: a list by rank."""
    if world == 1:
        return [value]
    values = [None] * world
    distributed.all_gather_object(values, value)
    return values


def broadcast(value, world):
    """What the first process has, on all of them."""
    values = [value]
    if world > 1:
        distributed.broadcast_object_list(values)
    return values[0]


def _check_torchrun():
    if 'RANK' not in os.environ:
        raise UserError('--launcher pytorch needs torchrun: torchrun --nproc-per-node N tools/... --launcher pytorch')
