"""A folder has one run: its lock, the next free name, and the run that --resume goes on with."""
import os
from glob import escape, glob
from itertools import count

from harness.files import read_torch
from harness.ranks import RANK, RANKS, of_rank_0
from tasks.record import UserError

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None
    import msvcrt


def lock(path):
    """An open file that no other process can lock, until it is closed or this process ends, however
    it does; None if another process has it locked. Raises OSError."""
    file = open(path, "a")
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except (BlockingIOError, PermissionError):
        file.close()
        return None
    except OSError as error:
        print(f"note: {path} cannot be locked ({error.strerror}): let no other run write there")
    return file


def claim_folder(s):
    """Make a folder this run's own until its process ends, and set s.out_dir to it: --out_dir, or
    the first of out/TASK-METHOD, out/TASK-METHOD-2 .. that is free. UserError if --out_dir is not:
    another process trains there, or it holds a run with steps that --overwrite does not give up."""
    error = None
    if RANK == 0:
        try:
            s.out_dir, s.lock = free_folder(s)
        except UserError as its_error:
            error = str(its_error)
    s.out_dir, error = of_rank_0((s.out_dir, error))
    if error:
        raise UserError(error) if RANK == 0 else SystemExit(1)


def free_folder(s):
    first = s.out_dir or f"out/{s.task}-{s.method}"
    for i in count(1):
        folder = first if i == 1 else f"{first}-{i}"
        try:
            os.makedirs(folder, exist_ok=True)
            locked = lock(os.path.join(folder, "lock"))
        except OSError as error:
            raise UserError(f"cannot write to the folder {folder} ({error.strerror}): choose "
                            "another --out_dir") from None
        given_up = s.overwrite and (s.out_dir or i == 1)  # no other folder than was meant
        if locked and (s.resume or given_up or not has_steps(folder)):
            if i > 1:
                print(f"note: {first} is taken, so this run is in {folder}")
            return folder, locked
        if s.out_dir and locked:
            raise UserError(f"{folder} holds a run: --resume it, --overwrite it, or choose another "
                            "--out_dir")
        if s.out_dir:
            raise UserError(f"another process is training in {folder}: wait for it, or choose "
                            "another --out_dir")


def has_steps(folder):
    """Whether a folder holds a run that has made a step, or files with its names."""
    ckpt = os.path.join(folder, "ckpt.pt")
    try:
        return (os.path.exists(os.path.join(folder, "metrics.jsonl"))
                or os.path.exists(ckpt) and read_torch(ckpt)["run"]["step"] > 0)
    except (UserError, LookupError, TypeError):  # damaged, or something else
        return True


def newest_run(first):
    """Of the folders first, first-2, first-3 .. in which no process trains the newest whose run is
    not done, or else the newest. UserError if there is none, or for several ranks."""
    if RANKS > 1:
        raise UserError("several processes must be told which run to resume: name it by --out_dir")
    found = []
    for folder in [first, *glob(f"{escape(first)}-[0-9]*")]:
        path = os.path.join(folder, "ckpt.pt")
        try:
            free = os.path.exists(path) and lock(os.path.join(folder, "lock"))
            if free:
                free.close()
                ckpt = read_torch(path)
                done = ckpt["run"]["epoch"] >= ckpt["settings"]["epochs"]
                found.append((not done, os.path.getmtime(path), folder))
        except (UserError, LookupError, TypeError, OSError):
            print(f"note: {path} cannot be resumed")
    if not found:
        raise UserError(f"nothing to resume: there is no {first}/ckpt.pt that no process trains")
    *_, folder = max(found)
    print(f"resuming {folder}")
    return folder
