"""What a check of a config found."""
from dataclasses import dataclass
from functools import partial


@dataclass(frozen=True)
class Finding:
    """One thing to know about a config.

    Attributes:
        level: `error`: it will not run, or not as the config says; `warning`: it will run, hardly as it is meant to;
            `note`: worth knowing.
        place: Dotted key of the setting.
        problem: What is the matter with it, from the verb on.
        remedy: What to do; empty where there is nothing to do.
    """

    level: str
    place: str
    problem: str
    remedy: str = ''

    def __str__(self):
        return f'{self.place} {self.problem}' + (f': {self.remedy}' if self.remedy else '')


LEVELS = 'error', 'warning', 'note'
error, warning, note = (partial(Finding, level) for level in LEVELS)
