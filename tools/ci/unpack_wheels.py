"""Unpacks what Tandem needs of the LibTorch wheels: unpack_wheels.py TARGET WHEEL...

Not an installation: no Python package is set up. The folder layout of the wheels is kept, because
libtorch_cpu.so finds its neighbours by an RPATH relative to itself.
"""
import sys
import zipfile

LIBRARIES = ("libtorch_cpu.so", "libc10.so", "libgomp.so.1")  # the CPU part: 450 of 1,000 MB


def wanted(name):
    if name.endswith("/") or ".." in name.split("/"):
        return False
    if name.startswith("torch/lib/"):
        return name.removeprefix("torch/lib/") in LIBRARIES
    if name.startswith("nvidia/"):
        return not name.endswith((".a", ".py"))
    if ".dist-info/" in name:
        return "/licenses/" in name or name.endswith("/METADATA")
    return name.startswith("torch/include/")


def main(target, wheels):
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if wanted(name)]
            archive.extractall(target, names)
            print(f"  {len(names)} files of {wheel.rsplit('/', 1)[-1]}")


main(sys.argv[1], sys.argv[2:])
