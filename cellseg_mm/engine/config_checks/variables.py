"""Whether what a config file sets is read: a base has made its settings of its own variables before that."""
import ast
from pathlib import Path

from mmengine.config import Config

from cellseg_mm.engine.config import SETTINGS
from cellseg_mm.engine.config_checks.finding import warning


def check(subject):
    """Yield findings."""
    path = Path(subject.config.filename or '')
    if path.suffix != '.py' or not path.is_file():
        return
    tree = ast.parse(path.read_text(encoding='utf-8'))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    for statement in tree.body:
        if not isinstance(statement, ast.Assign):
            continue
        for target in statement.targets:
            name = getattr(target, 'id', None)
            if name and name != '_base_' and name not in names and name not in SETTINGS and _is_inherited(
                    path, tree, name, subject.config.get(name)):
                yield warning(name, 'is set in this file and read nowhere: the base has made its settings of '
                              'the value it had', 'set what is made of it, such as train_dataloader=dict(dataset=dict('
                              f'pipeline={name}))' if name.endswith('pipeline') else 'set what is made of it')


def _is_inherited(path, tree, name, value):
    """Whether a base of the file has another value of that name."""
    bases = next((ast.literal_eval(statement.value) for statement in tree.body if isinstance(statement, ast.Assign)
                  and getattr(statement.targets[0], 'id', None) == '_base_'), [])
    for base in [bases] if isinstance(bases, str) else bases:
        if '::' not in base:
            inherited = Config.fromfile(path.parent / base)
            if name in inherited and inherited[name] != value:
                return True
    return False
