"""Files from the network."""
import hashlib
import re
import shutil
from urllib.request import urlopen

from cellseg_mm.io.files import atomic_path

DOWNLOAD_TIMEOUT = 20.0


def download(url, target):
    """Download a file, and keep it only if all of it came.

    Args:
        url (str): Its address, `file://` too.
        target (Path): Where it goes.

    Raises:
        OSError: If it cannot be had, breaks off, or is not what its name says.
        http.client.HTTPException: If the answer is no HTTP.
    """
    with (urlopen(url, timeout=DOWNLOAD_TIMEOUT) as response,  # noqa: S310 -- a config's address, file:// too
          atomic_path(target) as partial):
        with partial.open('wb') as file:
            shutil.copyfileobj(response, file)
        length = response.headers.get('Content-Length')
        if length is not None and partial.stat().st_size != int(length):
            raise OSError('the connection broke off')
        # Names such as resnet50-0676ba61.pth hold the beginning of the file's SHA-256.
        digest = re.search(r'-([0-9a-f]{8,})\.', target.name)
        if digest and not hashlib.sha256(partial.read_bytes()).hexdigest().startswith(digest[1]):
            raise OSError('what came is not that file')
