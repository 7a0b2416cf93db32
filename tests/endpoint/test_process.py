import os
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from stablerep.endpoint.process import ProcessRef, claim_port, describe, exit_code, is_running, start_detached, stop
from stablerep.errors import PortInUseError


def _wait_ended(process: ProcessRef) -> None:
    deadline = time.monotonic() + 20
    while is_running(process):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_process_is_more_than_its_number() -> None:
    process = describe(os.getpid())
    assert process is not None
    assert is_running(process)
    for other in (
        replace(process, start_ticks=process.start_ticks + 1),
        replace(process, boot_id="another boot"),
        replace(process, host="another machine"),
    ):
        assert not is_running(other)
        assert stop(other)  # nothing is signalled: this process would not survive it
    assert describe(2**22 + 1) is None


def test_a_detached_process_has_its_own_session_and_writes_to_its_log(tmp_path: Path) -> None:
    log = tmp_path / "made" / "log"
    script = "import os, sys; print(os.getsid(0) == os.getpid(), sys.stdin.read() == '', flush=True); sys.exit('and errors')"
    process = start_detached(["-c", script], log)
    _wait_ended(process)
    assert log.read_text() == "True True\nand errors\n"
    assert exit_code(process) == 1
    assert exit_code(process) is None


def test_a_zombie_does_not_run_and_stop_leaves_none(tmp_path: Path) -> None:
    process = start_detached(["-c", "pass"], tmp_path / "log")
    _wait_ended(process)
    assert Path(f"/proc/{process.process_id}").exists()
    assert stop(process)
    assert not Path(f"/proc/{process.process_id}").exists()
    sleeping = start_detached(["-c", "import time; time.sleep(60)"], tmp_path / "log")
    assert stop(sleeping)
    assert not Path(f"/proc/{sleeping.process_id}").exists()


def test_a_killed_process_has_minus_the_signal_as_exit_code(tmp_path: Path) -> None:
    process = start_detached(["-c", "import time; time.sleep(60)"], tmp_path / "log")
    os.kill(process.process_id, signal.SIGKILL)
    _wait_ended(process)
    assert exit_code(process) == -signal.SIGKILL


def test_a_claimed_port_is_nobody_elses() -> None:
    with claim_port("127.0.0.1", 0, "REST port") as claimed:
        port = claimed.getsockname()[1]
        with pytest.raises(PortInUseError, match=rf"gRPC port: cannot listen on 127.0.0.1:{port} \(Address already in use\)"):
            claim_port("127.0.0.1", port, "gRPC port")
    claim_port("127.0.0.1", port, "REST port").close()


def test_a_claimed_socket_says_that_it_is_tcp_or_every_answer_would_take_40_ms() -> None:
    with claim_port("127.0.0.1", 0, "REST port") as claimed:
        assert claimed.proto == socket.IPPROTO_TCP


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(PortInUseError, match=r"cannot listen on 192\.0\.2\.1:8080"):
        claim_port("192.0.2.1", 8080, "REST port")
