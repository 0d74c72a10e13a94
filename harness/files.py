"""Files that torch saved, by us or by strangers."""
import os
import pickle
import zipfile

import torch

from tasks.record import UserError, refuse_pointer


def read_torch(path):
    """What torch saved in a file, on the CPU; runs no code of the file. Raises UserError."""
    try:
        refuse_pointer(path)
        zipped = zipfile.is_zipfile(path)  # not in the format before torch 1.6
        if zipped:
            with zipfile.ZipFile(path) as file:
                if damaged := file.testzip():
                    raise UserError(f"cannot read {path}: its part {damaged} is damaged")
        mmap = zipped and os.name != "nt"  # Windows would not replace a mapped file
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except UserError:
        raise
    except pickle.UnpicklingError:
        raise UserError(f"cannot read {path} as a file torch saved: it is none, or it holds more "
                        "than tensors and plain values") from None
    except Exception as error:  # of half a dozen types
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"cannot read {path} as a file torch saved: {reason}") from None


def is_checkpoint(saved):
    """Whether what read_torch returned is a checkpoint of train.py."""
    return isinstance(saved, dict) and "settings" in saved
