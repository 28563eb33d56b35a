import os
import threading
import time
from pathlib import Path

import pytest

from pipelines.captioning.shards import Lease, LeaseLostError
from tests.processes import run_python


def owner(lease: Path) -> Path:
    (file,) = lease.iterdir()
    return file


def age(lease: Path, seconds: float) -> None:
    past = time.time() - seconds
    os.utime(owner(lease), (past, past))


def move_to_another_machine(lease: Path) -> None:
    _, pid, token = owner(lease).name.split("--")
    owner(lease).rename(lease / f"elsewhere--{pid}--{token}")


def test_lease_is_held_by_one_and_free_after_release(tmp_path):
    first, second = Lease(tmp_path / "lease"), Lease(tmp_path / "lease")
    assert first.acquire()
    assert not second.acquire()
    first.check()
    first.release()
    assert second.acquire()
    second.release()
    assert list(tmp_path.iterdir()) == []


def test_lease_of_a_silent_machine_is_taken_over_and_its_holder_notices(tmp_path):
    first, second = Lease(tmp_path / "lease", 3600), Lease(tmp_path / "lease", 3600)
    assert first.acquire()
    move_to_another_machine(tmp_path / "lease")
    assert not second.acquire()
    age(tmp_path / "lease", 3601)
    assert second.acquire()
    with pytest.raises(LeaseLostError, match="taken over"):
        first.check()
    first.release()  # must not give back what is no longer its own
    second.check()
    second.release()


def test_lease_of_a_dead_process_of_this_machine_is_free_at_once(tmp_path):
    script = (
        "import os, sys; from pathlib import Path; from pipelines.captioning.shards import Lease\n"
        "assert Lease(Path(sys.argv[1]), 3600).acquire(); os._exit(9)"
    )
    assert run_python("-c", script, tmp_path / "lease").returncode == 9
    assert (tmp_path / "lease").exists()
    lease = Lease(tmp_path / "lease", 3600)
    assert lease.acquire()
    lease.release()


def test_heartbeat_keeps_a_lease_alive(tmp_path):
    lease = Lease(tmp_path / "lease", timeout_s=0.06)
    assert lease.acquire()
    age(tmp_path / "lease", 3600)
    while time.time() - owner(tmp_path / "lease").stat().st_mtime > 1800:  # until it beats
        time.sleep(0.01)
    lease.release()


def test_of_many_that_try_at_once_one_gets_a_dead_lease(tmp_path):
    for _ in range(20):
        dead = Lease(tmp_path / "lease", 3600)
        assert dead.acquire()
        dead._stop.set()
        move_to_another_machine(tmp_path / "lease")
        age(tmp_path / "lease", 3601)
        leases = [Lease(tmp_path / "lease", 3600) for _ in range(8)]
        barrier, won = threading.Barrier(8), []

        def attempt(lease, barrier=barrier, won=won):
            barrier.wait()
            if lease.acquire():
                won.append(lease)

        threads = [threading.Thread(target=attempt, args=(lease,)) for lease in leases]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        won[0].check()
        won[0].release()
