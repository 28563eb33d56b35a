"""Allow-list of hosts and environment variables in recipes.

Recipes are published and therefore contain no keys: a URL contains the placeholder `{key}` (or
`key_param` names the query parameter), and `key_env` names the environment variable of the key.

The user's own recipe may name any host and variable. The recipe of a downloaded dataset is not
trusted: it may only name the hosts in `KEY_OF_HOST`, each with its own variable.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from .errors import DatasetError, SourceError
from .yaml_records import read_yaml

KEY_OF_HOST: Mapping[str, str | None] = {
    "maps.googleapis.com": "GOOGLE_MAPS_API_KEY",
    "api.map.baidu.com": "BAIDU_MAP_AK",
    "tiles.mapillary.com": "MAPILLARY_ACCESS_TOKEN",
    "graph.mapillary.com": "MAPILLARY_ACCESS_TOKEN",
    **{f"t{number}.tianditu.gov.cn": "TIANDITU_KEY" for number in range(8)},
    "api.openstreetcam.org": None,
    "basemap.nationalmap.gov": None,
    "data.geopf.fr": None,
    "wmts.geo.admin.ch": None,
    "earth-search.aws.element84.com": None,
}
"""Known providers by HTTPS host: the only variable whose value may be sent there, if any."""

ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://[^\s\"'<>]+", re.IGNORECASE)
ADDRESS_HOST = re.compile(r"^[^/?#]*(//[^/?#]*)?")
USER = re.compile(r"//[^/?#\s]*@")
PLACEHOLDER = re.compile(r"\{[^{}]*\}")
PARAMETER = re.compile(r"([\w.-]+)=([^&;#?\s]*)")
SECRET_NAME = re.compile(
    ".*(accesskey|credential|jwt|passw|secret|signature|token).*|.*key|ak|appcode|auth|"
    "authorization|pwd|session|sig|sn|ticket|tk"
)
"""Names of query parameters that contain keys, reduced to lower-case letters and digits."""
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
HEX = re.compile(r"[0-9a-f]+|[0-9A-F]+")
RANDOM_HEX, RANDOM_TEXT = 32, 20
"""Lengths of a run of about 100 random bits: a key, or a hash used as one."""


def secret_from(variable: str, source: str) -> str:
    """Key from an environment variable.

    Raises:
        SourceError: The variable is not set.
    """
    if not (secret := os.environ.get(variable, "")):
        raise SourceError(f"{source!r} needs a key: set the environment variable {variable}.")
    return secret


def variables_of(values: Any) -> set[str]:
    """Environment variables that a recipe names, and those of the known providers."""
    named = {str(value) for name, value in _leaves(values) if _last(name) == "key_env"}
    return named | {name for name in KEY_OF_HOST.values() if name is not None}


def check_known(sources: Iterable[Any]) -> None:
    """Check the sources of a recipe that came with a downloaded dataset.

    Args:
        sources: Sources of satellite or street-view images.

    Raises:
        DatasetError: A source names an unknown host, or the variable of another host.
    """
    if found := _unknown(sources):
        raise DatasetError(
            f"The recipe.yaml of the downloaded dataset {found}, which is not allowed: such a "
            "recipe may only use known providers (KEY_OF_HOST in dataset_builders/trust.py), over "
            "HTTPS and each with its own key. For other hosts, give your own recipe with --recipe."
        )


def question_about(sources: Iterable[Any]) -> str | None:
    """Confirmation prompt for unknown hosts and variables of the user's recipe; None if none."""
    found = _unknown(sources)
    return f"The recipe {found}. Continue?" if found else None


def check_addresses(values: Any) -> None:
    """Check that no URL in a recipe contains a key.

    Keys are user names and passwords before the host, values of query parameters with names such as
    `access_token`, `key` or `sig`, and, in fields whose name ends in `url`, long random runs of
    letters and digits. UUIDs count as ids of resources.

    Args:
        values: A recipe or part of it: nested mappings, sequences and strings.

    Raises:
        DatasetError: A URL contains a key, or `key_env` is a key itself. The message names the
            field, never the key.
    """
    for name, value in _leaves(values):
        if _last(name) == "key_env" and (not VARIABLE.fullmatch(value) or _is_random(value)):
            raise DatasetError(
                f"`{name}` takes the name of an environment variable, such as MY_KEY, and not the "
                "key itself: recipes are published. Set the variable to the key."
            )
        is_address = _last(name).endswith("url")
        for address in [value] if is_address else ADDRESS.findall(value):
            if found := _key_in(address, is_address):
                raise DatasetError(
                    f"`{name}` has an address with a key in it ({found}), and recipes are "
                    "published. Write {key} in its place, or name the query parameter in "
                    "`key_param`, and put the key into the environment variable that `key_env` "
                    "names. If the key has been published, revoke it."
                )


def check_recipe_file(path: Path) -> dict[str, Any]:
    """Check the URLs of a recipe file, including its comments; returns its values.

    Raises:
        DatasetError: As in [`check_addresses`], or the file is not a YAML mapping.
    """
    values = read_yaml(path)
    check_addresses(values)
    check_addresses({path.name: path.read_text(encoding="utf-8")})
    return values


def _leaves(values: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _leaves(value, f"{name}.{key}" if name else str(key))
    elif isinstance(values, (list, tuple)):
        for number, value in enumerate(values):
            yield from _leaves(value, f"{name}[{number}]")
    elif isinstance(values, str):
        yield name, values


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _unknown(sources: Iterable[Any]) -> str:
    """What the sources send to unknown hosts, without repetition; "" if nothing."""
    said: dict[str, None] = {}
    for source in sources:
        variable = getattr(source, "key_env", None)
        for one in fields(source):
            address = getattr(source, one.name) if one.name.endswith("url") else None
            if address is not None and not _is_known(address, variable):
                what = f"the value of {_shown(variable)}" if variable else "requests without a key"
                said[f"sends {what} to {_shown(_host(address))}"] = None
    return " and ".join(said)


def _is_known(address: str, variable: str | None) -> bool:
    scheme, _, rest = address.partition("://")
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]  # with a port or user name the host is unknown
    return scheme == "https" and host in KEY_OF_HOST and variable in (None, KEY_OF_HOST[host])


def _host(address: str) -> str:
    try:
        return urlsplit(address).netloc.rpartition("@")[2] or address
    except ValueError:
        return address


def _shown(text: str) -> str:
    """Untrusted text, escaped for printing."""
    return ascii(text)[1:-1]


def _key_in(address: str, is_address: bool) -> str | None:
    """Description of where a URL contains a key, without the key; None if it contains none."""
    if USER.search(address):
        return "a user name or password before the host"
    text = unquote(address)
    for name, value in PARAMETER.findall(text):
        plain = re.sub("[^a-z0-9]", "", name.lower())
        if PLACEHOLDER.sub("", value) and SECRET_NAME.fullmatch(plain):
            return f"the parameter {name!a}"
    if is_address and _is_random(PLACEHOLDER.sub("/", ADDRESS_HOST.sub("", text))):
        return "a long run of random letters and digits"
    return None


def _is_random(text: str) -> bool:
    """Whether a text has a run of letters and digits as long and mixed as a key."""
    for run in re.findall(r"[A-Za-z0-9]+", text):
        turns = len(re.findall(r"(?<=[0-9])(?=[A-Za-z])|(?<=[A-Za-z])(?=[0-9])", run))
        if turns >= 4 and len(run) >= (RANDOM_HEX if HEX.fullmatch(run) else RANDOM_TEXT):
            return True
    return False


__all__ = [
    "KEY_OF_HOST",
    "check_addresses",
    "check_known",
    "check_recipe_file",
    "question_about",
    "secret_from",
    "variables_of",
]
