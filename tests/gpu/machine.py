# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""machine - what a machine with a GPU has for dsrun: its driver, and the libraries that are not carried.

Libraries of a build that was carried here lie in its folder `lib`.  Those of CUDA are looked for where
CUDA's own installer and PyTorch's packages put them, the driver's where container runtimes do.  The folders
are for dsrun's processes only: other programs have libraries of their own.
"""
import ctypes
import os
import pathlib
import shutil
import subprocess
import sys

WANTED = (("libcuda.so.1",), ("libcublasLt.so.13", "libcublasLt.so.12"), ("libnccl.so.2",), ("libcudnn.so.9",))
DRIVER = ("/usr/local/nvidia/lib64", "/usr/local/nvidia/lib", "/usr/lib/x86_64-linux-gnu/nvidia/current", "/usr/lib64",
          "/usr/lib/wsl/lib")
TEXT = 96


def _env_folders():
    return [f for f in os.environ.get("LD_LIBRARY_PATH", "").split(":") if f and os.path.isdir(f)]


def _driver(name):
    """A library of the driver; None where there is none.  LD_LIBRARY_PATH counts as it is now."""
    for path in [os.path.join(f, name) for f in _env_folders()] + [name] + [os.path.join(f, name) for f in DRIVER]:
        try:
            return ctypes.CDLL(path)
        except OSError:
            continue
    return None


def why_no_gpu():
    """A few words, or "" where the driver has a GPU for this process."""
    driver = _driver("libcuda.so.1")
    if driver is None:
        return "there is no NVIDIA driver"
    count, code = ctypes.c_int(0), driver.cuInit(0)
    if code == 0:
        code = driver.cuDeviceGetCount(ctypes.byref(count))
    if code != 0:
        return f"the NVIDIA driver does not start, its error is {code}"
    return "" if count.value > 0 else "the NVIDIA driver has no GPU for this process"


class _Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


class Gpu:
    """The first GPU as its management library sees it, from outside all processes."""

    def __init__(self):
        self.library, self.handle = _driver("libnvidia-ml.so.1"), ctypes.c_void_p()
        if self.library is None or self.library.nvmlInit_v2() != 0 or \
                self.library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(self.handle)) != 0:
            self.library = None

    def _memory(self):
        memory = _Memory()
        if self.library is None or self.library.nvmlDeviceGetMemoryInfo(self.handle, ctypes.byref(memory)) != 0:
            return None
        return memory

    def used(self):
        """Bytes of its memory that are taken by anyone; None where that is not known."""
        memory = self._memory()
        return None if memory is None else memory.used

    def facts(self):
        """Name, driver and memory; of the driver proper where there is no management library."""
        name, version = ctypes.create_string_buffer(TEXT), ctypes.create_string_buffer(TEXT)
        memory = self._memory()
        if memory is None:
            _driver("libcuda.so.1").cuDeviceGetName(name, TEXT, 0)
            return {"name": name.value.decode(), "driver": "unknown", "memory": None}
        self.library.nvmlDeviceGetName(self.handle, name, TEXT)
        self.library.nvmlSystemGetDriverVersion(version, TEXT)
        return {"name": name.value.decode(), "driver": version.value.decode(), "memory": memory.total}


def _places():
    """Folders that the loader does not search by itself, the likeliest first."""
    roots = [pathlib.Path(p) for p in sys.path if p.endswith("-packages")]
    roots += sorted(pathlib.Path("/opt").glob("*/.venv/lib/python3*/site-packages"))
    for root in roots:
        yield from sorted(root.glob("nvidia/*/lib"))
    yield from sorted(pathlib.Path("/usr/local").glob("cuda*/lib64"))
    yield from sorted(pathlib.Path("/opt/nvidia").glob("*/lib"))
    yield from map(pathlib.Path, DRIVER)


def _known():
    """Names that the loader finds without being told."""
    tool = shutil.which("ldconfig") or "/sbin/ldconfig"
    try:
        text = subprocess.run([tool, "-p"], capture_output=True, text=True, check=False).stdout
    except OSError:
        text = ""
    names = {line.split()[0] for line in text.splitlines() if "=>" in line}
    for folder in _env_folders():
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
    return ":".join(folders + _env_folders()), lines
