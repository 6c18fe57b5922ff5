"""What all command lines share: errors in one line, and exit codes."""
import os
import re
import signal
import sys
import time
from datetime import timedelta

from cellseg_mm.errors import UserError, disk_remedy, is_out_of_memory

_LOST = 'another process of this run has ended: see what it said'
_PATIENCE = 5.0  # seconds in which torchrun ends a process that has nothing to tell


def run(main):
    """Call `main` and exit: 0 or its return value, 2 with one line on stderr for an error the user can mend.

    Args:
        main: The command; returns None or an exit status.
    """
    # SIGTERM ends a process at once; as an exception it lets half-written files be removed.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        status = main()
    except UserError as error:
        status = _fail(_from_worker(error) or str(error))
    except BrokenPipeError:
        # The reader of our output (head, less) went away; pointing stdout elsewhere keeps Python's exit quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except (RuntimeError, MemoryError) as error:
        message = _mendable(error)
        if message is None:
            raise
        status = _fail(message)
    except OSError as error:
        remedy = disk_remedy(error)
        if remedy is None:
            raise
        status = _fail(f'{error.filename or "writing"}: {remedy}')
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        status = 130
    sys.exit(status)


def _mendable(error):
    if type(error).__name__ == 'OutOfMemoryError':
        return ('the GPU has too little memory: try --amp, or a smaller batch by --cfg-options '
                'train_dataloader.batch_size=1')
    if is_out_of_memory(error):
        return ('memory ran out: try smaller images or crops, or a smaller batch by --cfg-options '
                'train_dataloader.batch_size=1')
    if 'killed by signal: Bus error' in str(error):
        return 'too little shared memory for data loading processes: add --cfg-options train_dataloader.num_workers=0'
    if 'killed by signal: Killed' in str(error):
        return ('memory ran out, and the system ended a data loading process: try a smaller batch and fewer processes, '
                '--cfg-options train_dataloader.batch_size=1 train_dataloader.num_workers=1')
    if 'gloo' in str(error) and 'by peer' in str(error):
        return _LOST
    return _from_worker(error)


def _from_worker(error):
    # PyTorch hands on what a data loading process raised as the text of its traceback.
    lines = re.findall(r'^cellseg_mm\.[\w.]+Error: (.*)', str(error), re.MULTILINE)
    return lines[-1] if lines else None


def _fail(message):
    # What several processes of a distributed run have met the first one tells. The others wait for torchrun to end
    # them: if they ended first, it would end that one before it has told. One that lost another may have been slow.
    if message == _LOST:
        time.sleep(_PATIENCE)
    if _is_first_to_tell(message):
        print('error: ' + ' '.join(message.split()), file=sys.stderr, flush=True)
    else:
        time.sleep(_PATIENCE)
    return 2


def _is_first_to_tell(message):
    if os.environ.get('TORCHELASTIC_USE_AGENT_STORE') != 'True':
        return True
    from torch.distributed import TCPStore
    attempt = f'cellseg_mm/{os.environ.get("TORCHELASTIC_RESTART_COUNT")}/'
    try:
        store = TCPStore(os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT']), is_master=False,
                         timeout=timedelta(seconds=_PATIENCE))
        told = store.add(f'{attempt}told', 1) > 1
        return store.add(attempt + message, 1) == 1 and not (message == _LOST and told)
    except RuntimeError:  # torchrun has gone
        return True
