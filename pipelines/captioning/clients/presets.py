"""Known captioning models: `presets.yaml`."""

import difflib
import textwrap
from importlib.resources import files
from typing import Any

import yaml

from ..errors import CaptioningError

_FILE = files(__package__).joinpath("presets.yaml").read_text(encoding="utf-8")
_GROUPS: dict[str, list[dict[str, Any]]] = yaml.safe_load(_FILE)
PRESETS = {one["name"]: one for group in _GROUPS.values() for one in group}


def find_preset(name: str) -> dict[str, Any]:
    """Look up a preset.

    Raises:
        CaptioningError: Unknown name.
    """
    if str(name) not in PRESETS:
        close = difflib.get_close_matches(str(name), PRESETS, 1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise CaptioningError(
            f"Unknown preset {name!r}; available: {', '.join(PRESETS)}.{hint} For any other model, "
            "set `model`."
        )
    return PRESETS[name]


def describe_presets() -> str:
    """List all presets as text."""
    parts = []
    for title, group in (("The paper's models", "paper"), ("Newer models", "current")):
        parts.append(f"{title} (commands not tested in this repository)\n")
        for one in _GROUPS[group]:
            command = textwrap.indent(one["serve_command"], "    ")
            head = f"{one['name']}: {one['model']}\n  Licence: {one['licence']}; {one['source']}"
            parts.append(f"{head}\n  {one['remarks']}\n{command}\n")
    return "\n".join(parts)
