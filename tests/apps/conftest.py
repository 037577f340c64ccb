"""What the app's tests share: its folder on the path, images with known content, bundles that need no training."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pydicom
import pytest
import torch
import yaml
from monai.bundle import ConfigParser
from PIL import Image
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from monai_mammo.datasets.phantom_dicom import VOI, Encoding, write_mammogram

from .ohif_page import OhifPage, chromium

if TYPE_CHECKING:
    from lib.datastore import MammogramDatastore

pytest.importorskip("monailabel", reason="the app's server needs the extra `label`")

ROOT = Path(__file__).parents[2]
APP = ROOT / "apps" / "mammo"
sys.path.insert(0, str(APP))

QUALITY = "mammo_quality_classification"
SEGMENTATION = "mammo_tumor_segmentation"
LESION = "mammo_tumor_segmentation_roi"


def blob(rows: int = 120, columns: int = 90) -> tuple[np.ndarray, np.ndarray]:
    """A dim breast at the left edge with a bright L-shaped lesion in its upper part; pixels and the lesion."""
    y, x = np.mgrid[:rows, :columns]
    breast = (x / (0.8 * columns)) ** 2 + ((y - rows / 2) / (0.45 * rows)) ** 2 < 1
    lesion = np.zeros((rows, columns), dtype=bool)
    lesion[rows // 4 : rows // 4 + 24, 20:28] = True
    lesion[rows // 4 : rows // 4 + 8, 20:44] = True
    return np.where(lesion, 1.0, np.where(breast, 0.4, 0.0)), lesion


def write_dicom(path: Path, pixels: np.ndarray, patient: int = 1, spacing: float = 0.2, **encoding: str) -> Path:
    """A For Presentation mammogram of these pixels (left CC), uncompressed MONOCHROME2 unless said otherwise.

    Files of one patient are of one study; each name has an image of its own.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    syntax = UID(encoding.get("syntax", ExplicitVRLittleEndian))
    write_mammogram(
        path,
        pixels,
        patient=patient,
        laterality="L",
        view="CC",
        density="b",
        spacing=spacing,
        seed=0,
        encoding=Encoding(syntax, encoding.get("photometric", "MONOCHROME2"), encoding.get("voi", VOI[0])),
    )
    dataset = pydicom.dcmread(path)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid(
        entropy_srcs=[str(patient), path.name]
    )
    dataset.save_as(path)
    return path


def strip(path: Path) -> None:
    """Leave the data set alone of a file, without preamble and meta information, as old archives hold it."""
    content = path.read_bytes()
    path.write_bytes(content[144 + int.from_bytes(content[140:144], "little") :])


def write_png(path: Path, pixels: np.ndarray) -> Path:
    """The pixels as an 8-bit grey PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((pixels * 255).astype(np.uint8)).save(path)
    return path


def copy_bundles(folder: Path, **values: Any) -> Path:
    """Both bundles with other values in their configs, where these have them."""
    for source in sorted((ROOT / "bundles").glob("mammo_*")):
        ignored = shutil.ignore_patterns("*.pt", "eval", "cache", "data")
        shutil.copytree(source, folder / source.name, ignore=ignored)
        (folder / source.name / "models").mkdir(exist_ok=True)
        for name in ("train.yaml", "inference.yaml"):
            file = folder / source.name / "configs" / name
            config = yaml.safe_load(file.read_text(encoding="utf-8"))
            for key, value in values.items():
                if key in config and not (isinstance(config[key], str) and config[key].startswith("$")):
                    config[key] = value
            file.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def small_bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both bundles with networks and inputs so small that they train in seconds; without weights.

    After an epoch they are sure of nothing, and with the usual threshold would mark nothing.
    """
    folder = tmp_path_factory.mktemp("small")
    sizes = {"size": [64, 64], "roi_size": [64, 64], "whole_size": [96, 64]}
    return copy_bundles(folder, width=4, threshold=0.1, peak=0.1, **sizes)


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both bundles with weights: a small untrained quality network, and for a segmentation network a threshold.

    So what is segmented is known: all that is bright.
    """
    folder = copy_bundles(tmp_path_factory.mktemp("bundles"), width=4, size=[64, 64])
    file = folder / SEGMENTATION / "configs" / "inference.yaml"
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    config["network_def"] = {"_target_": "torch.nn.Conv2d", "in_channels": 3, "out_channels": 2, "kernel_size": 1}
    file.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    bright = {"weight": torch.zeros(2, 3, 1, 1), "bias": torch.tensor([0.0, -70.0])}
    bright["weight"][1] = 100 / 3
    for name in ("model.pt", "model_whole.pt"):
        torch.save(bright, folder / SEGMENTATION / "models" / name)
    parser = ConfigParser()
    parser.read_config(str(folder / QUALITY / "configs" / "inference.yaml"))
    torch.manual_seed(0)
    torch.save(parser.get_parsed_content("network_def").state_dict(), folder / QUALITY / "models" / "model.pt")
    return folder


@dataclass
class Server:
    """A running server and the folders it works on."""

    url: str
    studies: Path
    weights: Path
    process: subprocess.Popen[bytes]
    log: Path
    http: httpx.Client

    def infer(self, model: str, image: str, /, **params: Any) -> httpx.Response:
        """POST /infer/<model> as Slicer does; the answer is multipart, or JSON where there is no mask."""
        return self.http.post(f"/infer/{model}", params={"image": image}, data={"params": json.dumps(params)})

    def is_up(self) -> bool:
        """Whether it still answers."""
        return self.process.poll() is None and self.http.get("/info/").status_code == 200


def free_port() -> int:
    """A port of this machine on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_server(
    studies: Path | str,
    bundles: Path,
    folder: Path,
    *conf: str,
    host: str = "127.0.0.1",
    token: str = "",
    patience: int = 600,
) -> Server:
    """Start `monailabel start_server` on a free port of this machine, and wait until it answers.

    `conf` are further keys and values, `host` may be empty for the default; the client sends `token`. It is asked
    `patience` times; if it does not start, it is ended.
    """
    port = free_port()
    weights, log = folder / "weights", folder / "server.log"
    # A copy of the app keeps the server's logs and working folders out of the source tree.
    app = folder / "repository" / "apps" / "mammo"
    shutil.copytree(APP, app, ignore=shutil.ignore_patterns("logs", "model", "bin", "__pycache__"))
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(app), "--studies", str(studies)]
    command += ["--port", str(port), *(["--host", host] if host else [])]
    command += ["--conf", "bundles", str(bundles), "--conf", "weights", str(weights), "--conf", "device", "cpu"]
    for key, value in zip(conf[::2], conf[1::2], strict=True):
        command += ["--conf", key, value]
    home = folder / "home"
    home.mkdir()
    missing, temporary = folder / "missing", folder / "temporary"
    missing.mkdir()
    temporary.mkdir()
    (missing / "torchvision.py").write_text("raise ImportError('the app must run without torchvision')")
    nowhere = "http://127.0.0.1:9"  # whoever calls out fails
    environment = {**os.environ, "HOME": str(home), "PYTHONPATH": str(missing), "OMP_NUM_THREADS": "1"}
    environment |= {"http_proxy": nowhere, "https_proxy": nowhere, "no_proxy": "127.0.0.1"}
    environment |= {"TMPDIR": str(temporary)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    client = httpx.Client(base_url=url, timeout=120, trust_env=False)
    if token:
        client.headers["Authorization"] = f"Bearer {token}"
    server = Server(url, Path(studies), weights, process, log, client)
    try:
        for _ in range(patience):
            if process.poll() is not None:
                raise RuntimeError(f"the server ended at its start:\n{log.read_text()[-4000:]}")
            try:
                client.get("/info/").raise_for_status()
                return server
            except httpx.TransportError:
                time.sleep(0.2)
        raise RuntimeError(f"the server did not start:\n{log.read_text()[-4000:]}")
    except BaseException:  # an interrupt included: nobody else knows of the process
        stop_server(server)
        raise


def stop_server(server: Server) -> None:
    """End the server and what it started."""
    server.http.close()
    with suppress(ProcessLookupError):  # it has ended by itself
        os.killpg(server.process.pid, signal.SIGTERM)
    try:
        server.process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        os.killpg(server.process.pid, signal.SIGKILL)
        server.process.wait()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, bundles: Path) -> Iterator[Server]:
    """A server over a folder with good and bad files; tests add files of their own names and share it."""
    folder = tmp_path_factory.mktemp("server")
    studies = folder / "studies"
    pixels, _ = blob()
    write_dicom(studies / "P1" / "L_CC.dcm", pixels, patient=1)
    write_dicom(studies / "P2" / "1.2.840.55", pixels, patient=2, photometric="MONOCHROME1")
    write_png(studies / "film.png", pixels)
    (studies / "notes.dcm").write_text("this is no DICOM file")
    running = start_server(studies, bundles, folder)
    yield running
    stop_server(running)


@pytest.fixture(scope="session")
def viewer() -> None:
    """OHIF; what needs it is skipped where it is not fetched."""
    served = pytest.importorskip("lib.viewer")
    if not (served.FETCHED / "index.html").is_file():
        pytest.skip("OHIF is not fetched: python apps/mammo/ohif/fetch.py")


@pytest.fixture(scope="module")
def running(viewer: None, studies: Path, bundles: Path) -> Iterator[Server]:
    """A server of the `studies` that a module of tests has, in OHIF."""
    server = start_server(studies, bundles, studies.parent, "scoring", "off")
    yield server
    stop_server(server)


@pytest.fixture(scope="module")
def reader(running: Server) -> Iterator[OhifPage]:
    """A reader's browser."""
    with chromium() as browser:
        page = OhifPage(browser, running.url)
        page.page.on("dialog", lambda dialog: dialog.accept())  # that something is not submitted
        yield page
        assert page.outside == []
        assert page.errors == []


@dataclass
class Orthanc:
    """A running Orthanc, a real archive: `url` is its DICOMweb root, `rest` its own interface."""

    url: str
    rest: httpx.Client
    process: subprocess.Popen[bytes]
    folder: Path

    def store(self, *files: Path) -> None:
        """Put DICOM files into it."""
        for file in files:
            self.rest.post("/instances", content=file.read_bytes()).raise_for_status()

    def remove(self, sop: str) -> None:
        """Delete an instance."""
        for instance in self.rest.post("/tools/lookup", content=sop).raise_for_status().json():
            self.rest.delete(instance["Path"]).raise_for_status()

    def segmentations(self, **query: str) -> list[bytes]:
        """The DICOM SEG files that it has of a patient or study."""
        wanted = {"Level": "Instance", "Query": {"Modality": "SEG", **query}}
        found = self.rest.post("/tools/find", json=wanted).raise_for_status().json()
        return [self.rest.get(f"/instances/{instance}/file").content for instance in found]


def start_orthanc(folder: Path, port: int | None = None, login: tuple[str, str] | None = None) -> Orthanc:
    """Start Orthanc with its DICOMweb plugin on loopback, its storage in `folder`; skips where it is not installed.

    With a `login` it answers nobody else.
    """
    places = ("/usr/share/orthanc/plugins", "/usr/local/share/orthanc/plugins", "/usr/lib/orthanc")
    plugin = next((file for place in places for file in Path(place).glob("libOrthancDicomWeb.so*")), None)
    program = shutil.which("Orthanc", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if program is None or plugin is None:
        pytest.skip("Orthanc with its DICOMweb plugin (Debian: orthanc, orthanc-dicomweb) is not installed")
    port = port or free_port()
    folder.mkdir(parents=True, exist_ok=True)
    storage, settings, log = folder / "storage", folder / "orthanc.json", folder / "orthanc.log"
    values: dict[str, Any] = {"StorageDirectory": str(storage), "IndexDirectory": str(storage), "HttpPort": port}
    values |= {"DicomServerEnabled": False, "RemoteAccessAllowed": False}
    values |= {"AuthenticationEnabled": bool(login), "RegisteredUsers": dict([login] if login else [])}
    values |= {"Plugins": [str(plugin)], "MaximumStorageCacheSize": 0}  # what is lost on its disk is lost
    settings.write_text(json.dumps({**values, "DicomWeb": {"Enable": True, "Root": "/dicom-web/"}}))
    with log.open("ab") as output:
        process = subprocess.Popen(
            [program, str(settings)], stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    rest = httpx.Client(base_url=f"http://127.0.0.1:{port}", auth=login, timeout=60, trust_env=False)
    running = Orthanc(f"http://127.0.0.1:{port}/dicom-web", rest, process, folder)
    try:
        for _ in range(600):
            if process.poll() is not None:
                raise RuntimeError(f"Orthanc ended at its start:\n{log.read_text()[-4000:]}")
            try:
                rest.get("/system").raise_for_status()
                return running
            except httpx.TransportError:
                time.sleep(0.1)
        raise RuntimeError(f"Orthanc did not start:\n{log.read_text()[-4000:]}")
    except BaseException:
        stop_orthanc(running)
        raise


def stop_orthanc(orthanc: Orthanc) -> None:
    """End Orthanc as a crash does."""
    orthanc.process.kill()
    orthanc.process.wait()


@pytest.fixture(scope="session")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """An archive that all tests share: each keeps to patients of its own."""
    running = start_orthanc(tmp_path_factory.mktemp("orthanc"))
    yield running
    running.rest.close()
    stop_orthanc(running)


@pytest.fixture
def open_store(orthanc: Orthanc, tmp_path: Path) -> Callable[..., MammogramDatastore]:
    """Open the part of the archive that one patient's images are."""
    from lib.archive import Archive
    from lib.datastore import MammogramDatastore

    def opened(patient: int, labels: str = "labels", **options: Any) -> MammogramDatastore:
        query = {"Modality": "MG", "PatientID": f"PHANTOM{patient:04d}"}
        return MammogramDatastore(Archive(orthanc.url, tmp_path / "cache", query, **options), tmp_path / labels)

    return opened
