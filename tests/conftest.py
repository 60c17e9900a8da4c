"""What holds for all tests: no network, nobody's caches or settings, few threads."""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import settings
from random_models import randomized

from circuits.architectures import HookedGPT2
from circuits.backend import linear, onednn_works

_connect, _connect_ex, _getaddrinfo = (
    socket.socket.connect,
    socket.socket.connect_ex,
    socket.getaddrinfo,
)


def pytest_configure(config: pytest.Config) -> None:
    # The models of the tests are tiny: more threads cost time. Of several processes, each has one.
    most = 1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, os.cpu_count() or 1)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or most))
    # A slow machine is no failure, and the same tests run every time.
    settings.register_profile("house", deadline=None, derandomize=True)
    settings.load_profile("house")

    empty = tempfile.mkdtemp(prefix="circuits-tests-")
    config.add_cleanup(lambda: shutil.rmtree(empty, ignore_errors=True))
    for name in ("CIRCUITS_MODEL", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN"):
        os.environ.pop(name, None)
    os.environ |= {"HF_HOME": empty, "MPLBACKEND": "Agg", "NO_COLOR": "1", "COLUMNS": "100"}
    _cut_the_network(config)


def _cut_the_network(config: pytest.Config) -> None:
    """This machine may be talked to, no other: refused like a machine without a network does."""

    def connect(self: socket.socket, address: Any) -> None:
        _refuse(self, address)
        _connect(self, address)

    def connect_ex(self: socket.socket, address: Any) -> int:
        _refuse(self, address)
        return _connect_ex(self, address)

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        if not _is_here(host):
            raise socket.gaierror(socket.EAI_AGAIN, f"the tests run without a network: {host!r}")
        return _getaddrinfo(host, *args, **kwargs)

    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", connect)
    patch.setattr(socket.socket, "connect_ex", connect_ex)
    patch.setattr(socket, "getaddrinfo", getaddrinfo)
    config.add_cleanup(patch.undo)


def _refuse(self: socket.socket, address: Any) -> None:
    if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_here(address[0]):
        raise OSError(f"the tests run without a network: {address!r}")


def _is_here(host: Any) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="session")
def mini() -> Iterator[HookedGPT2]:
    """The bundled default model, loaded once; whoever changes it breaks the run."""
    from circuits.checkpoints import checksum, load

    model = load()
    before = checksum(model)
    yield model
    assert checksum(model) == before
    assert not [name for name, hook in model.hook_dict.items() if hook.watched]


@pytest.fixture(scope="session")
def compiled() -> Iterator[HookedGPT2]:
    """The model whose circuits are known exactly; whoever changes it breaks the run."""
    from circuits.checkpoints import checksum
    from circuits.checkpoints.compiled import build

    model = build(n_layers=3)
    before = checksum(model)
    yield model
    assert checksum(model) == before


@pytest.fixture(scope="session")
def words() -> Iterator[HookedGPT2]:
    """A random model in float64 that knows enough words for the tasks; nobody changes it."""
    from word_model import word_model

    from circuits.checkpoints import checksum

    model = word_model().double()
    before = checksum(model)
    yield model
    assert checksum(model) == before


@pytest.fixture
def tiny() -> HookedGPT2:
    """A fresh random model of two layers in float64, to do anything with."""
    return randomized()


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use oneDNN wherever it can be used, also on machines, and in sizes, where it is slower."""
    if not onednn_works():
        pytest.skip("this torch cannot be asked for oneDNN's products")
    monkeypatch.setattr(linear, "onednn_is_faster", lambda: True)
    monkeypatch.setattr(linear, "LEAST_WORK", 0)
    monkeypatch.setattr(linear, "LEAST_ROW", 0)
