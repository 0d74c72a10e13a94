"""Files that cannot be trusted: disks fill up, and strangers wrote what we read."""
import os
import pickle
import zipfile

import torch

from tasks.record import UserError


def write_whole(path, mode, write):
    """Let write(file) make a new version of a file. Whatever ends it on the way, a crash or a full
    disk, leaves the old version as it was. Raises UserError."""
    part = path + ".tmp"
    try:
        with open(part, mode) as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except (OSError, RuntimeError) as error:  # torch.save hides the first behind the second
        if os.path.exists(part):
            os.remove(part)
        reason = error.__context__ if isinstance(error.__context__, OSError) else error
        raise UserError(f"cannot write {path} ({reason}): what it held before is still there; once "
                        "the reason is gone, try again (a run of train.py by --resume)") from None


def read_torch(path):
    """What torch saved in a file, on the CPU; runs no code of the file. Raises UserError."""
    try:
        with open(path, "rb") as file:
            if file.read(30).startswith(b"version https://git-lfs"):
                raise UserError("a Git-LFS pointer, run `git lfs pull` where it comes from")
        zipped = zipfile.is_zipfile(path)  # not in the format before torch 1.6
        if zipped:
            with zipfile.ZipFile(path) as file:
                if damaged := file.testzip():
                    raise UserError(f"its part {damaged} is damaged")
        mmap = zipped and os.name != "nt"  # Windows replaces no file that is mapped
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError:
        raise UserError(f"cannot read {path} as a file torch saved: it is none, or it holds more "
                        "than tensors and plain values") from None
    except Exception as error:  # of half a dozen types
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"cannot read {path} as a file torch saved: {reason}") from None


def is_checkpoint(saved):
    """Whether what read_torch returned is a checkpoint of train.py."""
    return isinstance(saved, dict) and "settings" in saved
