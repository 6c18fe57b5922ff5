"""The config inside a checkpoint, read as data: MMEngine would run it as Python code."""
import ast

from mmdet.models import detectors
from mmdet.registry import MODELS, TASK_UTILS
from mmengine.config import Config
from mmengine.utils import import_modules_from_strings

from cellseg_mm.errors import UserError
from cellseg_mm.models.detectors import cell_detectors

_IMPORTS = ['cellseg_mm.register']
# Looked up by mmcv and MMDetection elsewhere than in a registry: NMS by `eval`, of which nothing else may come.
_OPERATIONS = ('nms', 'soft_nms', 'RoIAlign', 'RoIPool', 'SimpleRoIAlign')
_TRUST = 'if you trust where it comes from, add --trust-checkpoint, or give the config file by --config'


def embedded_config(checkpoint, path, trusted=False):
    """Read the config that MMEngine keeps in a checkpoint.

    Unless the file is trusted, it may hold nothing but literals and `dict(...)`, import only this project's modules,
    and build only models that this project knows, of modules registered with MMDetection: a registry would import
    whatever a dotted name says, and some detectors load files that their settings name.

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
        raise UserError(f'{path}: it does not hold its config; give the config file by --config')
    if trusted:
        config = Config.fromstring(text, '.py')
        import_modules_from_strings(**config.get('custom_imports', dict(imports=_IMPORTS)))
        return config
    try:
        settings = {target.id: _value(statement.value) for statement in ast.parse(text).body
                    for target in statement.targets}
    except (SyntaxError, AttributeError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f'{path}: the config in it is code, not only settings; {_TRUST}') from error
    imports = settings.get('custom_imports', {}).get('imports', _IMPORTS)
    if not set(imports) <= set(_IMPORTS):
        raise UserError(f'{path}: its config imports {", ".join(imports)}; {_TRUST}')
    import_modules_from_strings(_IMPORTS)
    model = settings.get('model')
    if not isinstance(model, dict) or model.get('type') not in _known_detectors():
        kind = model.get('type') if isinstance(model, dict) else None
        raise UserError(f'{path}: its config builds a {kind}, no instance segmentation model known here; {_TRUST}')
    settings['model'] = _without_initial_weights(model)
    _check_parts({key: value for key, value in settings['model'].items() if key != 'type'}, path)
    return Config(settings)


def _value(node):
    """The value of a literal; `dict(a=1)` is one too, as MMEngine writes it."""
    if isinstance(node, ast.Call):
        if not isinstance(node.func, ast.Name) or node.func.id != 'dict' or node.args:
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
        if 'type' in node and not _is_known(node['type']):
            raise UserError(f'{path}: its config builds a {node["type"]}, which is not known here; {_TRUST}')
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for value in node:
            _check_parts(value, path)


def _is_known(kind):
    """Whether a part of a model is of a registry, and no detector: some of these load files as they are built."""
    if not isinstance(kind, str):
        return False
    name = kind.removeprefix('mmdet.')
    return name in _OPERATIONS or (not hasattr(detectors, name) and any(
        _registers(registry, name) for registry in (MODELS, TASK_UTILS)))


def _registers(registry, name):
    while registry is not None:
        if name in registry.module_dict:
            return True
        registry = registry.parent
    return False
