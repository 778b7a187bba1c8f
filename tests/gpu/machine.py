# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""machine - what a machine with a GPU has for dsrun: its driver, and the libraries that are not carried.

Libraries of a build that was carried here lie in its folder `lib`.  Those of CUDA are looked for where
CUDA's own installer and PyTorch's packages put them.  The folders are for dsrun's processes only: other
programs have libraries of their own.
"""
import ctypes
import os
import pathlib
import shutil
import subprocess
import sys

WANTED = (("libcublasLt.so.13", "libcublasLt.so.12"), ("libnccl.so.2",), ("libcudnn.so.9",))


def why_no_gpu():
    """A few words, or "" where the driver has a GPU for this process."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no NVIDIA driver"
    count, code = ctypes.c_int(0), driver.cuInit(0)
    if code == 0:
        code = driver.cuDeviceGetCount(ctypes.byref(count))
    if code != 0:
        return f"the NVIDIA driver does not start, its error is {code}"
    return "" if count.value > 0 else "the NVIDIA driver has no GPU for this process"


def _places():
    """Folders that the loader does not search by itself, the likeliest first."""
    for root in [pathlib.Path(p) for p in sys.path if p.endswith("-packages")]:
        yield from sorted(root.glob("nvidia/*/lib"))
    yield from sorted(pathlib.Path("/usr/local").glob("cuda*/lib64"))
    yield from sorted(pathlib.Path("/opt/nvidia").glob("*/lib"))


def _known():
    """Names that the loader finds without being told."""
    tool = shutil.which("ldconfig") or "/sbin/ldconfig"
    try:
        text = subprocess.run([tool, "-p"], capture_output=True, text=True, check=False).stdout
    except OSError:
        text = ""
    names = {line.split()[0] for line in text.splitlines() if "=>" in line}
    for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":"):
        if folder and os.path.isdir(folder):
            names.update(os.listdir(folder))
    return names


def library_path(build):
    """(LD_LIBRARY_PATH for dsrun's processes, a line for each library that was looked for)."""
    known, folders, lines = _known(), [], []
    if (build / "lib").is_dir():
        folders.append(str(build / "lib"))
    for names in WANTED:
        if any(name in known for name in names):
            lines.append(f"{names[0]}: known to the loader")
            continue
        found = [p / name for name in names for p in _places() if (p / name).exists()]
        lines.append(f"{names[0]}: {found[0] if found else 'not found'}")
        if found and str(found[0].parent) not in folders:
            folders.append(str(found[0].parent))
    if os.environ.get("LD_LIBRARY_PATH"):
        folders.append(os.environ["LD_LIBRARY_PATH"])
    return ":".join(folders), lines
