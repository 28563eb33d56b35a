"""Allowed imports between packages.

Pipelines exchange files and do not import one another, except that all may import
`pipelines/common`, and `pipelines/prediction` builds on `pipelines/evaluation`.
"""

import ast
import configparser
import gc
import re
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BASE = ("modeling_urbanln", "dataset_builders", "pipelines")
ABOVE = ("benchmarks", "demo", "examples", "tests")
PIPELINES = sorted(path.parent.name for path in (ROOT / "pipelines").glob("*/__init__.py"))
PIPELINES_BELOW = {"prediction": {"evaluation"}}
# subpackages of pipelines.evaluation, each with those it may import
EVALUATION_ROOMS: dict[str, tuple[str, ...]] = {
    "embed": (),
    "probe": ("embed",),
    "analysis": ("embed", "probe"),
    "search": ("embed", "probe", "analysis"),
    "report": ("embed", "probe", "analysis"),
}
# ftfy is optional: used to clean texts for CLIP's tokenizer if installed
MODEL_MAY_IMPORT = {"torch", "transformers", "huggingface_hub", "ftfy", *sys.stdlib_module_names}


def rules() -> dict[str, tuple[str, ...]]:
    """Forbidden imports by folder or script."""
    found = dict.fromkeys((*BASE, "train.py", "evaluate.py"), ABOVE)
    found["dataset_builders"] += ("modeling_urbanln", "pipelines", "torch")
    found["benchmarks"] = ("examples", "tests")
    found["demo"] = ("benchmarks", "examples", "tests", "train", "evaluate")
    for name in PIPELINES:
        below = {name, "common"} | PIPELINES_BELOW.get(name, set())
        others = (f"pipelines.{other}" for other in PIPELINES if other not in below)
        found[f"pipelines/{name}"] = tuple(others)
    for room, below in EVALUATION_ROOMS.items():
        others = (other for other in EVALUATION_ROOMS if other not in (room, *below))
        forbidden = tuple(f"pipelines.evaluation.{other}" for other in others)
        found[f"pipelines/evaluation/{room}"] = forbidden
    return found


def python_files(name: str) -> list[Path]:
    path = ROOT / name
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


@cache
def imports(path: Path) -> set[str]:
    """Absolute dotted names of all imports of a file, including those within functions."""
    names: set[str] = set()
    # CPython 3.11 can raise RecursionError if garbage is collected while building a tree
    gc.disable()
    try:
        tree = ast.parse(path.read_text())
    finally:
        gc.enable()
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def violations(files: list[Path], targets: tuple[str, ...]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)} imports {target}"
        for path in files
        for target in targets
        if any(name == target or name.startswith(target + ".") for name in imports(path))
    ]


@pytest.mark.parametrize("name", rules())
def test_forbidden_imports(name):
    files = python_files(name)
    assert files
    assert not violations(files, rules()[name])


def test_model_imports_torch_and_transformers_only():
    for path in python_files("modeling_urbanln"):
        assert path.parent == ROOT / "modeling_urbanln"  # flat, so that checkpoints include it
        outside = {name.split(".")[0] for name in imports(path)} - {"modeling_urbanln", ""}
        assert outside <= MODEL_MAY_IMPORT, f"{path.name}: {outside - MODEL_MAY_IMPORT}"


def test_demo_imports_public_names_only():
    private = [
        f"{path.name} imports {name}"
        for path in python_files("demo")
        for name in imports(path)
        if name.startswith(BASE) and any(part.startswith("_") for part in name.split("."))
    ]
    assert not private


def test_no_folder_shadows_a_library():
    assert not (ROOT / "datasets").exists()
    assert not (ROOT / "transformers").exists()


def test_violations_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "bad.py"
    path.write_text("def f():\n    from pipelines.evaluation import probing\n    import torch.nn\n")
    assert len(violations([path], ("pipelines", "torch", "modeling_urbanln"))) == 2


def test_installed_packages_include_templates_and_data():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    listed = {
        path
        for package, patterns in settings["options.package_data"].items()
        for pattern in re.split(r"[,\s]+", patterns)
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    files = {path for name in (*BASE, "demo") for path in (ROOT / name).rglob("*.*")}
    assert {one for one in files if one.suffix in (".css", ".j2", ".js", ".yaml")} == listed
