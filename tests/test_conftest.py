"""The tests' own surroundings are as they should be."""

from __future__ import annotations

import os
import socket
import warnings

import pytest


@pytest.mark.parametrize("address", [("192.0.2.1", 80), ("2001:db8::1", 80, 0, 0)])
def test_no_connection_leaves_this_machine(address: tuple[object, ...]) -> None:
    family = socket.AF_INET6 if len(address) == 4 else socket.AF_INET
    with socket.socket(family) as sock:
        with pytest.raises(OSError, match="without a network"):
            sock.connect(address)
        with pytest.raises(OSError, match="without a network"):
            sock.connect_ex(address)


def test_no_name_is_looked_up() -> None:
    with pytest.raises(socket.gaierror, match="without a network"):
        socket.create_connection(("huggingface.co", 443))


def test_this_machine_can_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
        accepted, _ = server.accept()
        with accepted:
            assert accepted.recv(1) == b""


def test_downloads_of_others_are_not_seen() -> None:
    from huggingface_hub import constants

    assert os.environ["HF_HOME"] == constants.HF_HOME
    assert "circuits-tests-" in constants.HF_HUB_CACHE


def test_warnings_are_errors() -> None:
    with pytest.raises(UserWarning, match="careful"):
        warnings.warn("careful", UserWarning, stacklevel=1)
