"""The errors a user can cause. Each message is one line that says what to do."""


class UserError(Exception):
    """Something the user can mend. Command lines print the message, without a traceback, and exit with 2."""


def one_line(error):
    """Return an exception's message in one line, without the quotes that a KeyError puts around its own."""
    return ' '.join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())


class CellDataError(UserError):
    """A file of the data set that cannot be used as it is.

    Args:
        path: The file or folder at fault.
        problem: What is wrong with it.
        remedy: What the user can do about it.
    """

    def __init__(self, path, problem, remedy):
        super().__init__(f'{path}: {problem}; {remedy}')
        self.path, self.problem, self.remedy = str(path), problem, remedy

    def __reduce__(self):
        # Exception pickles its one message; worker processes have to return all three parts.
        return type(self), (self.path, self.problem, self.remedy)
