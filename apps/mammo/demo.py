"""`make demo`: phantom studies, drawn once into `demo/`, and the server with the bundles' own weights."""

from __future__ import annotations

import argparse
import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from rich.console import Console

from monai_mammo.datasets import phantom

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "demo"
STUDIES = DEMO / "studies"
console = Console()


def main() -> int:
    """Draw the studies if they are missing, then serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--prepare-only", action="store_true", help="do not start the server")
    arguments = parser.parse_args()
    if not arguments.prepare_only:
        require_free(arguments.port)
    write_studies()
    return 0 if arguments.prepare_only else serve(arguments.port)


def require_free(port: int) -> None:
    """End here where the server could not listen: whoever else does would be taken for it.

    Raises:
        SystemExit: the port is another's, or none that may be used.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server: one that has ended is no hindrance
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
            sys.exit(f"port {port} {why}: make demo PORT={8001 if port == 8000 else 8000}")


def write_studies() -> None:
    """Write the study folder: DICOM files alone, the truth about them beside it."""
    truth = DEMO / "truth"
    if not truth.is_dir():
        partial = truth.with_name(truth.name + ".part")
        phantom.write_phantoms(partial, patients=4, seed=1, progress=True)
        phantom.contact_sheet(partial, partial / "contact_sheet.png")
        partial.rename(truth)
    if not STUDIES.is_dir():
        partial = STUDIES.with_name(STUDIES.name + ".part")
        shutil.copytree(truth, partial, ignore=shutil.ignore_patterns("masks", "*.json", "*.png"), dirs_exist_ok=True)
        partial.rename(STUDIES)


def serve(port: int) -> int:
    """Start the server, say what to do with it once it answers, and stop it with this process."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # as by Ctrl-C: what is below ends the server
    address = f"http://127.0.0.1:{port}"
    # The script `monailabel` would do the same, but takes no paths with spaces.
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(ROOT / "apps" / "mammo")]
    command += ["--studies", str(STUDIES), "--host", "127.0.0.1", "--port", str(port)]
    # Trainings run the first `python` on PATH.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    server = subprocess.Popen(command, env={**os.environ, "PATH": path}, start_new_session=True)
    try:
        while server.poll() is None and not answers(f"{address}/info/"):
            time.sleep(0.5)
        if server.poll() is None:
            console.print(what_to_try(address), soft_wrap=True, highlight=False, markup=False)
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait()


def answers(address: str) -> bool:
    """Whether the server is up."""
    try:
        with urllib.request.urlopen(address, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def what_to_try(address: str) -> str:
    """The first steps of a newcomer."""
    image = "phantom-0001-study-1-L_CC"
    infer = f"curl -X POST '{address}/infer"
    return f"""
The server is at {address}: what it serves stands at {address}/info/, every route at {address}/docs

In a browser: {address}/ohif/, choose a study, then "Mammography".

3D Slicer: install the extension MONAILabel, enter {address} as MONAI Label server, press Next Sample, then Run.

From a shell:
  curl -X POST {address}/activelearning/random
  {infer}/mammo_quality_classification?image={image}&output=json'
  {infer}/mammo_tumor_segmentation?image={image}&output=image' -o mask.nrrd

The phantoms with their masses outlined: {DEMO / "truth" / "contact_sheet.png"}
Your own mammograms: copy DICOM files into {STUDIES}
The models were trained on about a hundred mammograms each (docs/README.md in each bundle). Not for diagnostic use.
Ctrl-C stops the server.
"""


if __name__ == "__main__":
    sys.exit(main())
