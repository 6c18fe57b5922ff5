"""Reading checkpoints without running what is in them, and refusing those of another model."""
import pickle
import re
from pathlib import Path
from types import NoneType

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from cellseg_mm.errors import UserError

# A head of one stage of a cascade, where other models have a single one.
_STAGE = re.compile(r'^(roi_head\.(?:bbox|mask)_head)\.\d+\.')


def read_checkpoint(path, trusted=False):
    """Read a checkpoint, running none of the code that such a file can hold, unless it is trusted.

    MMEngine falls back to unrestricted unpickling, which runs whatever the file's author put into it.

    Args:
        path (str | Path): A file that this project, MMDetection or plain PyTorch wrote.
        trusted (bool): Whether code in it may run.

    Returns:
        dict: With `state_dict`, and `meta` where the file has it.

    Raises:
        UserError: If the file is missing, is no checkpoint, or needs code to be run.
    """
    if not Path(path).is_file():
        raise UserError(f'{path}: there is no such checkpoint; training writes best_epoch_<n>.pth to its work dir')
    # NumPy's arrays and scalars and MMEngine's log buffers are data. The latter name their methods through `getattr`,
    # which MMEngine allows whole, and with it any code.
    data_types = [HistoryBuffer, np.ndarray, np.dtype, np._core.multiarray._reconstruct, np._core.multiarray.scalar,
                  *{type(np.dtype(code)) for code in '?bhilqBHILQefd'}, (_method_of_a_buffer, 'builtins.getattr')]
    try:
        with torch.serialization.safe_globals(data_types):
            checkpoint = torch.load(path, map_location='cpu', weights_only=not trusted)
    except pickle.UnpicklingError as error:
        blocked = re.search(r'GLOBAL (\S+)|(getattr)', str(error))
        raise UserError(
            f'{path}: refused, since loading it would run code ({blocked[1] or blocked[2]}); if you trust where it '
            'comes from, save its weights alone, or let tools/predict.py --trust-checkpoint read it' if blocked else
            f'{path}: this is not a checkpoint, or a damaged one') from error
    except Exception as error:  # a damaged file can fail anywhere in the unpickling
        raise UserError(f'{path}: this is not a checkpoint, or a damaged one') from error
    if not isinstance(checkpoint, dict):
        raise UserError(f'{path}: this is not a checkpoint: it holds a {type(checkpoint).__name__}')
    checkpoint = with_state_dict(checkpoint)
    if not all(isinstance(checkpoint.get(key, {}), dict) for key in ('state_dict', 'meta')):
        raise UserError(f'{path}: this is not a checkpoint: its weights or its meta data are no dictionary')
    if not isinstance(checkpoint.get('meta', {}).get('dataset_meta', {}), (dict, NoneType)):
        raise UserError(f'{path}: this is a damaged checkpoint: its dataset_meta is no dictionary')
    return checkpoint


def with_state_dict(checkpoint):
    """A checkpoint as all others are: bare weights become its `state_dict`, and DataParallel's `module.` goes."""
    checkpoint = checkpoint if 'state_dict' in checkpoint else dict(state_dict=checkpoint)
    weights = checkpoint['state_dict']
    if isinstance(weights, dict) and all(isinstance(name, str) for name in weights):
        consume_prefix_in_state_dict_if_present(weights, 'module.')  # in what it knows of its layers' versions too
    return checkpoint


def _method_of_a_buffer(owner, name):
    if owner is HistoryBuffer and name in ('min', 'max', 'current', 'mean'):
        return getattr(owner, name)
    raise pickle.UnpicklingError('getattr')


def check_weights(model, checkpoint, path):
    """Hold a checkpoint against the model that is to take it.

    Args:
        model (nn.Module): The model.
        checkpoint (dict): What `read_checkpoint` returned.
        path (str | Path): Its file, for the message.

    Raises:
        UserError: If a tensor is missing, left over or of another shape.
    """
    wanted, found = model.state_dict(), checkpoint['state_dict']
    if wanted.keys() != found.keys():
        raise UserError(
            f'{path}: the checkpoint is of another model: {len(wanted.keys() - found.keys())} tensors are missing, '
            f'{len(found.keys() - wanted.keys())} do not belong here; use the config that it was trained with')
    for name, tensor in wanted.items():
        if _shape(tensor) != _shape(found[name]):
            raise UserError(
                f'{path}: the checkpoint is of another model: {name} is {_shape(found[name])}, not {_shape(tensor)}; '
                'use the config, and the number of classes, that it was trained with')


def _shape(weights):
    return tuple(weights.shape) if isinstance(weights, torch.Tensor) else 'no tensor'


def starting_weights(model, checkpoint, path):
    """The tensors of a checkpoint that a model to be fine-tuned can start from.

    Each stage of a cascade starts from the one head of a model without stages.

    Args:
        model (nn.Module): The model.
        checkpoint (dict): What `read_checkpoint` returned.
        path (str | Path): Its file, for the message.

    Returns:
        dict[str, Tensor]: By the names of the model's, those that have the shape of the one they are for.

    Raises:
        UserError: If there are none.
    """
    wanted, found = model.state_dict(), checkpoint['state_dict']
    taken = {}
    for name, tensor in wanted.items():
        source = name if name in found else _STAGE.sub(r'\1.', name)
        if source in found and _shape(found[source]) == _shape(tensor):
            taken[name] = found[source]
    if not taken:
        raise UserError(f'{path}: the checkpoint is of another model: none of its tensors fits')
    return taken


def check_resumable(checkpoint, path):
    """Raise a UserError if a checkpoint lacks what a training goes on from, as the best epoch's does."""
    missing = [key for key in ('optimizer', 'param_schedulers', 'message_hub') if key not in checkpoint]
    if missing or not {'epoch', 'iter'} <= checkpoint.get('meta', {}).keys():
        raise UserError(f'{path}: it holds weights only; resume from epoch_<n>.pth, or start a new training from these '
                        'weights with --cfg-options load_from=FILE')


def trained_classes(checkpoint, path):
    """The names of the classes that a checkpoint was trained on.

    Args:
        checkpoint (dict): What `read_checkpoint` returned.
        path (str | Path): Its file, for the message.

    Returns:
        tuple[str] | None: None where it does not tell.

    Raises:
        UserError: If they are no list of different names.
    """
    meta = checkpoint.get('meta', {}).get('dataset_meta') or {}
    classes = meta.get('classes', meta.get('CLASSES'))  # as MMDetection named them before
    return None if classes is None else class_names(classes, f'{path}: its dataset_meta')


def class_names(classes, where):
    """Classes as a tuple, or a UserError that says `where` they are no list of different names."""
    if (not isinstance(classes, (list, tuple)) or not classes or not all(isinstance(name, str) for name in classes)
            or len(set(classes)) < len(classes)):
        raise UserError(f"{where} has the classes {classes!r}, no list of different names such as ['cell']")
    return tuple(classes)


def check_checkpoint_classes(checkpoint, classes, path):
    """Raise a UserError if the checkpoint was trained on other classes, or on the same ones in another order."""
    trained = trained_classes(checkpoint, path)
    if trained is not None and trained != tuple(classes):
        raise UserError(f'{path}: trained on the classes {trained}, the config has {tuple(classes)}; '
                        'use the config that it was trained with')


def message_hub_to_plain(state):
    """Turn MMEngine's message hub state into types that load with `weights_only=True`."""
    scalars = {
        name: dict(values=torch.as_tensor(buffer._log_history), counts=torch.as_tensor(buffer._count_history),
                   max_length=buffer.max_length)
        for name, buffer in state['log_scalars'].items()
    }
    return dict(log_scalars=scalars, runtime_info=_plain(state['runtime_info']),
                resumed_keys=_plain(state['resumed_keys']))


def plain_to_message_hub(state):
    """Undo `message_hub_to_plain`."""
    scalars = {
        name: plain if isinstance(plain, HistoryBuffer) else  # as stock MMEngine keeps them
        HistoryBuffer(plain['values'].cpu().numpy(), plain['counts'].cpu().numpy(), plain['max_length'])
        for name, plain in state['log_scalars'].items()
    }
    return {**state, 'log_scalars': scalars}


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value
