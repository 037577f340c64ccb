"""What the server costs beside the network: decoding as the measure, parallel clients, a viewer that loads meanwhile.

    python benchmarks/server.py [--rows 4000] [--columns 3000] [--repeats 7]

Starts the app on this machine over one phantom of 12 bits, once uncompressed and once as lossless JPEG 2000. In place
of the network stands a convolution of one pixel that marks the brightest, which takes no time, so that everything else
is measured exactly; images are not scored in the background. One thread an inference, here and in the server: else one
client alone would use several cores. Prints medians: (time of /infer) / (time of the reader's decoding of that file),
goal 1.5 at most, and beside it the ratio to pydicom's decoding to display values; throughput of 8 clients at once
against one, goal 0.9 for each core, with the cores that server and clients were busy on meanwhile; time of a static
file while 8 clients infer, goal below 100 ms.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import psutil
import torch
import yaml
from pydicom import dcmread
from pydicom.pixel_data_handlers.util import apply_modality_lut, apply_voi_lut
from pydicom.uid import UID

from monai_mammo.datasets import phantom
from monai_mammo.datasets.phantom_dicom import VOI, Encoding, write_mammogram
from monai_mammo.dicom.reader import read_mammogram

ROOT = Path(__file__).resolve().parents[1]
MODEL = "mammo_tumor_segmentation"
SYNTAXES = {"uncompressed": "1.2.840.10008.1.2.1", "jpeg2000": "1.2.840.10008.1.2.4.90"}
CLIENTS = 8


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=4000)
    arguments.add_argument("--columns", type=int, default=3000)
    arguments.add_argument("--repeats", type=int, default=7)
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    cores = len(os.sched_getaffinity(0))
    print(
        f"torch {torch.__version__}, {cores} cores, {torch.get_num_threads()} threads, {chosen.rows} x {chosen.columns}"
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_bundles(folder / "bundles")
        files = write_images(folder / "studies", chosen.rows, chosen.columns)
        with server(folder, recent_images=0) as (client, process):
            for name, file in files.items():
                report(client, process, name, file, chosen.repeats, cores)
        with server(folder, recent_images=512) as (client, _):
            print("\nthe same image again, from memory where it is kept:")
            for name in files:
                print(f"  {name:12} {1000 * again(client, name, chosen.repeats):26.0f} ms")


def report(client: httpx.Client, process: psutil.Process, name: str, file: Path, repeats: int, cores: int) -> None:
    """Measure and print for one file."""
    ask = asking(client, name)
    ask()  # loads the model
    rounds = 3 if name == "jpeg2000" else 9
    # In turns, so that whatever else the machine does slows both.
    turns = [(timed(lambda: by_pydicom(file)), timed(lambda: read_mammogram(file)), timed(ask)) for _ in range(repeats)]
    pydicom_alone, decoding, alone = (statistics.median(times) for times in zip(*turns, strict=True))
    with ThreadPoolExecutor(CLIENTS) as together:
        list(together.map(lambda _: ask(), range(CLIENTS)))  # the process takes the memory that several at once need
        start, own, its = time.perf_counter(), time.process_time(), busy(process)
        done = [together.submit(ask) for _ in range(CLIENTS * rounds)]
        static = [timed(lambda: client.get("/static/ohif/index.html").raise_for_status()) for _ in range(20)]
        for future in done:
            future.result()
        wall = time.perf_counter() - start
        each, own, its = wall / len(done), (time.process_time() - own) / wall, (busy(process) - its) / wall
    print(f"\n{name}: {file.stat().st_size / 1e6:.1f} MB")
    print(
        f"  decoding: pydicom {pydicom_alone * 1000:.0f} ms, the reader here {decoding * 1000:.0f} ms; "
        f"/infer without network {alone * 1000:.0f} ms"
    )
    print(f"  ratio to the reader's decoding        {alone / decoding:8.2f}     goal 1.5")
    print(f"  ratio to pydicom's decoding           {alone / pydicom_alone:8.2f}")
    print(f"  {CLIENTS} clients against one                 {alone / each:8.2f}     goal {0.9 * cores:.1f}")
    print(f"  cores that the server was busy on     {its:8.2f}     the clients {own:.2f}")
    print(f"  a static file meanwhile               {statistics.median(static) * 1000:8.0f} ms  goal 100 ms")


def again(client: httpx.Client, name: str, repeats: int) -> float:
    """Time of a further question about an image that was asked about already, in seconds."""
    ask = asking(client, name)
    ask()
    return statistics.median(timed(ask) for _ in range(repeats))


def by_pydicom(file: Path) -> np.ndarray:
    """Display values as pydicom gives them: pixels, modality and VOI transform."""
    dataset = dcmread(file)
    return np.asarray(apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset), dtype=np.float32)


def asking(client: httpx.Client, image: str) -> Callable[[], None]:
    """One inference as a viewer asks for it."""

    def ask() -> None:
        client.post(f"/infer/{MODEL}", params={"image": image, "output": "image"}).raise_for_status()

    return ask


def write_bundles(folder: Path) -> None:
    """The bundles with a network that takes no time."""
    shutil.copytree(ROOT / "bundles", folder, ignore=shutil.ignore_patterns("*.pt", "eval", "cache", "data"))
    file = folder / MODEL / "configs" / "inference.yaml"
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    config["network_def"] = {"_target_": "torch.nn.Conv2d", "in_channels": 3, "out_channels": 2, "kernel_size": 1}
    file.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    (folder / MODEL / "models").mkdir(exist_ok=True)
    brightest = {"weight": torch.zeros(2, 3, 1, 1), "bias": torch.tensor([0.0, -990.0])}
    brightest["weight"][1] = 1000 / 3
    torch.save(brightest, folder / MODEL / "models" / "model_whole.pt")


def write_images(studies: Path, rows: int, columns: int) -> dict[str, Path]:
    """The same phantom in each transfer syntax."""
    with tempfile.TemporaryDirectory() as temporary:
        phantom.write_phantoms(Path(temporary), patients=1, seed=1, rows=rows // 8, columns=columns // 8)
        file = next(path for path in sorted(Path(temporary).rglob("*L_CC*")) if path.suffix == ".dcm")
        small = read_mammogram(file).pixels
    noise = np.random.default_rng(0).normal(0, 0.003, (rows, columns))
    pixels = np.clip(np.kron(small, np.ones((8, 8)))[:rows, :columns] + noise, 0, 1)
    studies.mkdir()
    for number, (name, syntax) in enumerate(SYNTAXES.items()):  # each an image of its own
        write_mammogram(
            studies / f"{name}.dcm", pixels, patient=1, laterality="L", view="CC", density="b", spacing=0.07,
            seed=number, encoding=Encoding(UID(syntax), "MONOCHROME2", VOI[0]),
        )  # fmt: skip
    return {name: studies / f"{name}.dcm" for name in SYNTAXES}


@contextmanager
def server(folder: Path, recent_images: int) -> Iterator[tuple[httpx.Client, psutil.Process]]:
    """The app over the folder's studies and weights, from a copy, so that nothing is written into the repository.

    It keeps `recent_images` MiB of decoded images.
    """
    app = folder / f"repository_{recent_images}" / "apps" / "mammo"
    shutil.copytree(ROOT / "apps" / "mammo", app, ignore=shutil.ignore_patterns("logs", "model", "__pycache__"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "monailabel.main",
        "start_server",
        "--app",
        str(app),
        "--studies",
        str(folder / "studies"),
    ]
    command += ["--host", "127.0.0.1", "--port", str(port), "--conf", "bundles", str(folder / "bundles")]
    command += ["--conf", "weights", str(folder / "weights"), "--conf", "device", "cpu", "--conf", "scoring", "off"]
    command += ["--conf", "recent_images", str(recent_images)]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    limits = httpx.Limits(max_connections=2 * CLIENTS)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600, trust_env=False, limits=limits) as client:
        try:
            wait(client, process, folder / "server.log")
            yield client, psutil.Process(process.pid)
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def wait(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until the server answers."""
    pause = threading.Event()
    while process.poll() is None:
        try:
            client.get("/info/").raise_for_status()
            return
        except httpx.TransportError:
            pause.wait(0.2)
    raise SystemExit(f"the server did not start:\n{log.read_text()[-3000:]}")


def busy(process: psutil.Process) -> float:
    """Processor time of a process so far, in seconds."""
    times = process.cpu_times()
    return float(times.user + times.system)


def timed(work: Callable[[], object]) -> float:
    """Time of some work in seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
