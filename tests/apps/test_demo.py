"""`make demo` on a port that another server has."""

import importlib.util
import socket
import sys
from pathlib import Path
from types import ModuleType

import pytest

DEMO = Path(__file__).resolve().parents[2] / "apps" / "mammo" / "demo.py"


@pytest.fixture
def demo(monkeypatch) -> ModuleType:
    """The demo, which draws nothing and starts no server here."""
    spec = importlib.util.spec_from_file_location("demo", DEMO)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "write_studies", lambda: None)
    monkeypatch.setattr(module, "serve", lambda port: port)
    return module


def test_a_port_in_use_ends_it_with_another(demo, monkeypatch):
    with socket.socket() as others:
        others.bind(("127.0.0.1", 0))
        others.listen()
        port = others.getsockname()[1]
        monkeypatch.setattr(sys, "argv", ["demo.py", "--port", str(port)])
        with pytest.raises(SystemExit, match=f"^port {port} is in use: make demo PORT=8000$"):
            demo.main()
        monkeypatch.setattr(sys, "argv", ["demo.py", "--port", str(port), "--prepare-only"])
        assert demo.main() == 0
    monkeypatch.setattr(sys, "argv", ["demo.py", "--port", str(port)])
    assert demo.main() == port
