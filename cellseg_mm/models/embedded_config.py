"""The config inside a checkpoint, read as data: MMEngine would run it as Python code."""
import ast

from mmdet.registry import MODELS, TASK_UTILS
from mmengine.config import Config
from mmengine.utils import import_modules_from_strings

from cellseg_mm.errors import UserError, one_line
from cellseg_mm.models.detectors import cell_detectors

_IMPORTS = ['cellseg_mm.register']
# Looked up by mmcv and MMDetection elsewhere than in a registry: NMS by `eval`, of which nothing else may come.
_OPERATIONS = ('nms', 'soft_nms', 'RoIAlign', 'RoIPool', 'SimpleRoIAlign')
# Where such parts are defined: no trackers, language models or detectors within detectors.
_PLACES = ('cellseg_mm.models.', 'torch.nn.', 'mmcv.cnn.', 'mmcv.ops.', *(f'mmdet.models.{part}.' for part in (
    'backbones', 'necks', 'dense_heads', 'roi_heads', 'seg_heads', 'losses', 'layers', 'data_preprocessors',
    'task_modules.assigners', 'task_modules.coders', 'task_modules.prior_generators', 'task_modules.samplers')))
_GIVE = 'give the config file by --config'
_TRUST = 'if you trust where it comes from, add --trust-checkpoint, or ' + _GIVE


def embedded_config(checkpoint, path, trusted=False):
    """Read the config that MMEngine keeps in a checkpoint.

    Unless the file is trusted, it may hold nothing but literals and `dict(...)`, import only this project's modules,
    and build only models that this project knows, of the parts that such models have. A registry would import whatever
    a dotted name or a scope says, and parts of other models load files, or evaluate text, as they are built.

    Args:
        checkpoint (dict): What `read_checkpoint` returned.
        path (str | Path): Its file, for messages.
        trusted (bool): Whether what is in the file may run.

    Returns:
        Config: As it was written; its modules are imported.

    Raises:
        UserError: If there is none, or one that is not to be trusted.
    """
    text = checkpoint.get('meta', {}).get('cfg')
    if not isinstance(text, str):
        raise UserError(f'{path}: it does not hold its config; {_GIVE}')
    if trusted:
        try:
            config = Config.fromstring(text, '.py')
        except Exception as error:  # it is Python code: anything can go wrong in it
            raise UserError(f'{path}: the config in it fails: {type(error).__name__}: {one_line(error)}; '
                            f'{_GIVE}') from error
        import_modules(config, path)
        return config
    try:
        settings = {target.id: _value(statement.value) for statement in ast.parse(text).body
                    for target in statement.targets}
    except (SyntaxError, AttributeError, TypeError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f'{path}: the config in it is code, not only settings; {_TRUST}') from error
    if settings.get('custom_imports', dict(imports=_IMPORTS)) not in (
            dict(imports=_IMPORTS), dict(imports=_IMPORTS, allow_failed_imports=False)):
        raise UserError(f'{path}: its config imports {settings["custom_imports"]}; {_TRUST}')
    import_modules_from_strings(_IMPORTS)
    model = settings.get('model')
    kind = model.get('type') if isinstance(model, dict) else None
    if not isinstance(kind, str) or kind not in _known_detectors():
        raise UserError(f'{path}: its config builds a {kind}, no instance segmentation model known here; {_TRUST}')
    settings['model'] = _without_initial_weights(model)
    _check_parts({key: value for key, value in settings['model'].items() if key != 'type'}, path)
    try:
        return Config(settings)
    except Exception as error:  # such as a setting of a name that MMEngine keeps for itself
        raise UserError(f'{path}: the config in it is none: {one_line(error)}; {_GIVE}') from error


def import_modules(config, path):
    """Import what a config asks for, or this project's own modules; a UserError names the `path` where that fails."""
    try:
        import_modules_from_strings(**config.get('custom_imports', dict(imports=_IMPORTS)))
    except Exception as error:  # modules are code: anything can go wrong in them
        raise UserError(f'{path}: the custom_imports of its config fail: {type(error).__name__}: {one_line(error)}; '
                        'name modules that can be imported from here') from error


def _value(node):
    """The value of a literal; `dict(a=1)` is one too, as MMEngine writes it."""
    if isinstance(node, ast.Call):
        if not isinstance(node.func, ast.Name) or node.func.id != 'dict' or node.args or any(
                keyword.arg is None for keyword in node.keywords):
            raise ValueError('a call')
        return {keyword.arg: _value(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Dict):
        return {ast.literal_eval(key): _value(value) for key, value in zip(node.keys, node.values, strict=True)}
    if isinstance(node, (ast.List, ast.Tuple)):
        values = [_value(element) for element in node.elts]
        return values if isinstance(node, ast.List) else tuple(values)
    return ast.literal_eval(node)


def _known_detectors():
    ours = {name for name, value in vars(cell_detectors).items()
            if isinstance(value, type) and issubclass(value, cell_detectors.CellDetector)}
    return ours | {name.removeprefix('Cell') for name in ours}


def _without_initial_weights(node):
    """The settings without those that name weights to start from, which the checkpoint replaces."""
    if isinstance(node, dict):
        return {key: _without_initial_weights(value) for key, value in node.items()
                if key not in ('init_cfg', 'pretrained')}
    return type(node)(map(_without_initial_weights, node)) if isinstance(node, (list, tuple)) else node


def _check_parts(node, path):
    if isinstance(node, dict):
        for key, value in node.items():
            if (key == '_scope_' and value != 'mmdet') or (key == 'type' and not _is_known(value)):
                raise UserError(f'{path}: its config builds a {value}, which is not known here; {_TRUST}')
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for value in node:
            _check_parts(value, path)


def _is_known(kind):
    """Whether a part of a model is of a registry, and defined in one of `_PLACES`."""
    if not isinstance(kind, str):
        return False
    name = kind.removeprefix('mmdet.')
    found = [registry.module_dict[name] for registry in _registries() if name in registry.module_dict]
    return name in _OPERATIONS or (bool(found) and all(f'{part.__module__}.'.startswith(_PLACES) for part in found))


def _registries():
    for registry in (MODELS, TASK_UTILS):
        while registry is not None:
            yield registry
            registry = registry.parent
