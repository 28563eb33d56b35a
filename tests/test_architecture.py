"""Allowed imports between packages.

Pipelines exchange files and do not import one another, except that all may import
`pipelines/common`, and `pipelines/prediction` builds on `pipelines/evaluation`.
"""

import ast
import gc
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("modeling_urbanln", "dataset_builders", "pipelines", "benchmarks", "demo", "examples")
PIPELINES = sorted(
    path.name
    for path in (ROOT / "pipelines").iterdir()
    if path.is_dir() and (path / "__init__.py").exists()
)
PIPELINES_BELOW = {"prediction": {"evaluation"}}
# subpackages of pipelines.evaluation, each with those it may import
EVALUATION_ROOMS = {
    "embed": (),
    "probe": ("embed",),
    "analysis": ("embed", "probe"),
    "search": ("embed", "probe", "analysis"),
    "report": ("embed", "probe", "analysis"),
}
# ftfy is optional: used to clean texts for CLIP's tokenizer if installed
MODEL_MAY_IMPORT = {"torch", "transformers", "huggingface_hub", "ftfy", *sys.stdlib_module_names}
# names of libraries
FORBIDDEN_FOLDERS = ("datasets", "transformers")


def python_files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


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


def reaches(path: Path, target: str) -> bool:
    return any(name == target or name.startswith(target + ".") for name in imports(path))


def violations(files: list[Path], targets: tuple[str, ...]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)} imports {target}"
        for path in files
        for target in targets
        if reaches(path, target)
    ]


def test_the_model_imports_torch_transformers_and_itself_only():
    for path in python_files("modeling_urbanln"):
        outside = {name.split(".")[0] for name in imports(path)} - {"modeling_urbanln", ""}
        assert outside <= MODEL_MAY_IMPORT, f"{path.name}: {outside - MODEL_MAY_IMPORT}"


def test_the_model_is_flat_so_that_a_checkpoint_can_carry_it():
    assert all(
        path.parent == ROOT / "modeling_urbanln" for path in python_files("modeling_urbanln")
    )


def test_dataset_builders_know_nothing_of_models():
    others = (*(room for room in ROOMS if room != "dataset_builders"), "torch")
    assert not violations(python_files("dataset_builders"), others)


@pytest.mark.parametrize("name", PIPELINES)
def test_pipelines_never_import_one_another(name):
    below = {name, "common"} | PIPELINES_BELOW.get(name, set())
    others = tuple(f"pipelines.{other}" for other in PIPELINES if other not in below)
    assert not violations(python_files(f"pipelines/{name}"), (*others, "benchmarks", "demo"))


@pytest.mark.parametrize("room", EVALUATION_ROOMS)
def test_data_flows_one_way_through_the_rooms_of_evaluation(room):
    below = EVALUATION_ROOMS[room]
    others = [other for other in EVALUATION_ROOMS if other != room and other not in below]
    files = python_files(f"pipelines/evaluation/{room}")
    assert files
    assert not violations(files, tuple(f"pipelines.evaluation.{other}" for other in others))


def test_nothing_imports_benchmarks_examples_or_demo():
    files = [p for room in ROOMS[:3] for p in python_files(room)]
    scripts = [ROOT / name for name in ("train.py", "evaluate.py") if (ROOT / name).exists()]
    assert not violations([*files, *scripts], ("benchmarks", "demo", "examples", "tests"))
    others = [p for room in ("benchmarks", "demo") for p in python_files(room)]
    assert not violations(others, ("examples", "tests"))


def test_demo_uses_public_names_of_pipelines_model_and_builders_alone():
    files = python_files("demo")
    assert files
    assert not violations(files, ("benchmarks", "tests", "train", "evaluate"))
    private = [
        f"{path.name} imports {name}"
        for path in files
        for name in imports(path)
        if name.startswith(ROOMS[:3]) and any(part.startswith("_") for part in name.split("."))
    ]
    assert not private


def test_no_folder_shadows_a_library():
    assert not [name for name in FORBIDDEN_FOLDERS if (ROOT / name).is_dir()]


def test_the_check_itself_sees_a_violation(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "dataset_builders").mkdir()
    (tmp_path / "dataset_builders" / "bad.py").write_text(
        "def f():\n    from pipelines.evaluation import probing\n    import torch.nn\n"
    )
    found = violations(python_files("dataset_builders"), ("pipelines", "torch", "modeling_urbanln"))
    assert len(found) == 2
