"""
Files that cannot be trusted: disks fill up, connections break, and strangers wrote what we read.
"""
import hashlib
import os
import sys
import urllib.request
import zipfile

import torch


def write_whole(path, mode, write):
    """Let write(file) make a new version of a file. Whatever ends it on the way, a crash or a full
    disk, leaves the old version as it was. Raises OSError, in a sentence."""
    part = path + ".tmp"
    try:
        with open(part, mode) as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except (OSError, RuntimeError) as error:
        if os.path.exists(part):
            os.remove(part)
        if isinstance(error.__context__, OSError):  # torch.save hides it behind an error of its own
            error = error.__context__
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise OSError(f"cannot write {path} ({reason}): what it held before is still there. Make "
                      "room and try again, a run by --resume") from None


def download(url, path, sha256=None, timeout=30):
    """Fetch a file whole, or not at all; returns its SHA-256.

    sha256: what it must be, where that is known. timeout: seconds without a byte. Raises OSError
    for whatever the network does, ValueError for a file with another hash.
    """
    print(f"downloading {url}")
    part, digest, done = f"{path}.{os.getpid()}.tmp", hashlib.sha256(), 0
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response, open(part, "wb") as file:
            size = int(response.headers["Content-Length"] or 0)
            while piece := response.read(1 << 20):
                file.write(piece)
                digest.update(piece)
                done += len(piece)
                if sys.stdout.isatty():
                    print(f"\r{done / 1e6:.0f} of {size / 1e6:.0f} MB", end="", flush=True)
        if done < size:
            raise OSError(f"the connection broke after {done} of {size} bytes")
        if sha256 not in (None, digest.hexdigest()):
            raise ValueError(f"what came from {url} is not the released file: its SHA-256 is "
                             f"{digest.hexdigest()}, not {sha256}")
        os.replace(part, path)
    finally:
        if os.path.exists(part):
            os.remove(part)
    return digest.hexdigest()


def read_torch(path):
    """What torch saved in a file, on the CPU; runs no code of the file. Raises ValueError."""
    try:
        zipped = zipfile.is_zipfile(path)  # not in the format before torch 1.6
        if zipped:
            with zipfile.ZipFile(path) as file:
                if damaged := file.testzip():
                    raise ValueError(f"its part {damaged} is damaged")
        mmap = zipped and os.name != "nt"  # Windows replaces no file that is mapped
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # of half a dozen types
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"cannot read {path} as a file torch saved: {reason}") from None
