"""A command that this process runs to its end."""
import contextlib
import os
import re
import subprocess
import sys
import tempfile

PATIENCE = 20.0  # seconds that a command has to end by itself after a signal
_POLL = 0.2
_LONGEST = 300  # characters of a reason


def run_child(command, lock):
    """Run a command; what it writes goes where this process writes.

    Args:
        command (Sequence): Texts, paths and numbers.
        lock (int): A descriptor of `alone_in`, which it inherits, and holds as long as it runs.

    Returns:
        tuple[int, str | None]: Its exit status, as a shell would give it, and in one line why it failed; None if it
        did not.
    """
    with tempfile.TemporaryFile() as errors:
        process, shown = subprocess.Popen(list(map(str, command)), stderr=errors, pass_fds=(lock, )), 0
        try:
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL)
                shown = _pass_on(errors, shown)
        except BaseException as error:
            # Ctrl-C in a terminal has reached the command as well. A signal can get lost where Python swallows
            # exceptions.
            told = isinstance(error, KeyboardInterrupt)
            for stop in (*([process.poll] if told else ()), process.terminate, process.terminate, process.kill):
                stop()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(PATIENCE)
            raise
        finally:
            _pass_on(errors, shown)
        errors.seek(0)
        status = process.returncode
        return 128 - status if status < 0 else status, _reason(status, errors.read().decode(errors='replace'))


def _pass_on(errors, shown):
    """Show what came after `shown` bytes; how many bytes are shown now."""
    # The command writes at the file's position, which pread leaves alone.
    new = os.pread(errors.fileno(), os.fstat(errors.fileno()).st_size - shown, shown)
    if new:
        print(new.decode(errors='replace'), end='', file=sys.stderr, flush=True)
    return shown + len(new)


def _reason(status, text):
    if not status:
        return None
    if status == -9:
        return 'it was killed, perhaps for lack of memory'
    # An error for the user, or the last line of a traceback; torchrun adds one of its own.
    lines = [line for line in re.findall(r'^(?:error: |[A-Za-z_][\w.]*(?:Error|Exception)\b).*', text, re.MULTILINE)
             if 'ChildFailedError' not in line]
    said = ' '.join(lines[-1].removeprefix('error: ').split())[:_LONGEST] if lines else ''
    return said or (f'it ended with status {status}' if status > 0 else f'it was ended by signal {-status}')
