"""Contents are verified by hash; damaged ones are set aside and downloaded again."""

from pathlib import Path

import pytest

from dataset_builders.download import Store
from dataset_builders.ledger import DamagedStoreError

from .download_server import Server, fetch, items, picture


@pytest.fixture
def server():
    with Server() as one:
        yield one


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    path.unlink()
    if how != "missing":
        path.write_bytes(content[:-1] + b"\0")


@pytest.mark.parametrize("how", ["missing", "altered"])
def test_damaged_contents_are_set_aside_and_fetched_again(server, tmp_path, how):
    wanted = items(server, "ok", range(3))
    found = fetch(tmp_path, wanted)
    store = Store(tmp_path)
    for key in ("ok/0", "ok/1"):
        damage(store.path(found[key].sha256), how)
    # reading one reports all
    with pytest.raises(DamagedStoreError, match=r"^2 downloads stored in .* missing or altered"):
        store.read("ok/0")
    assert store.counts() == {"failed": 2, "ok": 1}
    assert len(list((tmp_path / "damaged").glob("*"))) == (0 if how == "missing" else 2)
    fetch(tmp_path, wanted)
    assert [store.read(f"ok/{n}") for n in range(3)] == [picture(n) for n in range(3)]
    assert server.asked == {"/ok/0": 2, "/ok/1": 2, "/ok/2": 1}


def test_repeated_images_are_placeholders(server, tmp_path):
    fetch(tmp_path, [*items(server, "same", range(6)), *items(server, "ok", range(1, 4))])
    store = Store(tmp_path)
    assert store.mark_placeholders("same/", 6) == 0
    assert store.mark_placeholders("same/", 5) == 6
    assert store.counts() == {"ok": 3, "placeholder": 6}
    assert store.read("same/0") is None
    assert store.forget_failures() == 6
