"""The errors a user can cause. Each message is one line that says what to do."""
import errno

_DISK_REMEDIES = {
    errno.ENOSPC: 'the disk is full: free some space, or name another folder',
    errno.EDQUOT: 'the disk quota is used up: free some space, or name another folder',
    errno.EROFS: 'the file system is read-only: name another folder',
    errno.EACCES: 'permission denied: name a folder that you may write to',
    errno.EFBIG: 'the file would be larger than allowed here: name another folder',
    errno.EEXIST: 'there is a file of that name: name another folder',
    errno.ENOTDIR: 'a part of that path is a file: name another folder',
    errno.EISDIR: 'this is a folder: name a file',
    errno.ENAMETOOLONG: 'the name is too long: give it a shorter one',
    errno.ENOENT: 'there is no such file or folder: check the path',
}
_OUT_OF_MEMORY = "can't allocate memory", 'Insufficient memory', 'bad_alloc'  # in the words of torch, OpenCV and C++


class UserError(Exception):
    """Something the user can mend. Command lines print the message, without a traceback, and exit with 2."""


def disk_remedy(error):
    """What a user can do about an OSError, or None where nothing is known."""
    return _DISK_REMEDIES.get(error.errno)


def is_out_of_memory(error):
    """Whether an exception says that memory ran out, of the machine or of a GPU."""
    return (isinstance(error, MemoryError) or type(error).__name__ == 'OutOfMemoryError'
            or any(words in str(error) for words in _OUT_OF_MEMORY))


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
