"""What can go wrong in a config, found before a training does."""
import warnings

from cellseg_mm.engine.config_checks import (
    classes,
    limits,
    memory,
    monitors,
    parts,
    pipelines,
    pretrained,
    priors,
    schedule,
    stages,
    variables,
)
from cellseg_mm.engine.config_checks.finding import LEVELS, error, note
from cellseg_mm.engine.config_checks.subject import Subject
from cellseg_mm.engine.preflight import check_data
from cellseg_mm.errors import CellDataError, UserError, one_line

# A model that cannot be built is told of last: what another finds may be the reason.
CHECKS = classes, stages, limits, monitors, schedule, pipelines, variables, pretrained, priors, memory, parts


def check_config(config, annotations=None):
    """Look for what is wrong in a config, and for what is hardly meant.

    It is looked at as `load_config` returns it, which is what is trained: what that carries on, such as the number of
    classes, cannot be wrong there. No file is downloaded, nothing is written, no weight is computed.

    Args:
        config (Config): A config from `load_config`; it is not changed.
        annotations (dict[str, dict], optional): Of the training and validation data, whose cells it is held against, as
            `check_data` returns them; read here if not given. Where there are none, a note says so.

    Returns:
        list[Finding]: Errors first.
    """
    findings = []
    if annotations is None:
        annotations = {}
        try:
            annotations = check_data(config, [split for split in ('train', 'val') if config.get(f'{split}_dataloader')])
        except CellDataError as caught:
            findings.append(error('data_root', f'{caught.path}: {caught.problem}', caught.remedy))
        except UserError:
            findings.append(note('data_root', f'is {config.data_root}, where there is nothing: what depends on '
                                 'the cells was not checked', 'add --cfg-options data_root=FOLDER'))
    subject = Subject(config, annotations)
    for check in CHECKS:
        name = check.__name__.rpartition('.')[2]
        try:
            with warnings.catch_warnings(action='ignore'):  # of the libraries, on a model that is built to be looked at
                findings += check.check(subject)
        except CellDataError as caught:
            findings.append(error('data_root', f'{caught.path}: {caught.problem}', caught.remedy))
        except UserError as caught:
            findings.append(error(name, f'has a setting that cannot be used, {caught}'))
        except Exception as caught:  # settings of other forms than are known here must not stop a training
            findings.append(note(name, f'could not be checked, {type(caught).__name__}: {one_line(caught)}'))
    return _sorted(findings)


def check_pretrained(config):
    """The findings of `check_config` on pretrained weights alone, for when they have been fetched."""
    return _sorted(pretrained.check(Subject(config)))


def warnings_of(config, findings):
    """Refuse a config that has errors.

    Args:
        config (Config): The config.
        findings (list[Finding]): What was found in it.

    Returns:
        list[str]: Its warnings, one line each.

    Raises:
        UserError: If there is an error: the first one, and how many more.
    """
    errors = [str(finding) for finding in findings if finding.level == 'error']
    if errors:
        more = f'; and {len(errors) - 1} more: python tools/check_config.py {config.filename}' if errors[1:] else ''
        raise UserError(f'{config.filename}: {errors[0]}{more}')
    return [str(finding) for finding in findings if finding.level == 'warning']


def _sorted(findings):
    return sorted(dict.fromkeys(findings), key=lambda finding: LEVELS.index(finding.level))
