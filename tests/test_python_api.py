"""What Python users import: every listed name is there, from a package that costs nothing until then."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from threedistill.lazy import listed

PACKAGE = Path(__file__).resolve().parent.parent / "threedistill"
PACKAGES = ("", "evaluation", "exports", "guidance", "priors", "representations")


def init_of(package: str) -> Path:
    return PACKAGE / package / "__init__.py"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_listed_name_is_the_one_of_its_module(package: str) -> None:
    module = importlib.import_module(f"threedistill.{package}".strip("."))
    places = listed(str(module.__file__))
    assert set(module.__all__) - {"__version__"} == set(places), (
        "__all__ and the imports for type checkers differ"
    )
    assert set(module.__all__) <= set(dir(module))
    for name, place in places.items():
        assert getattr(module, name) is vars(importlib.import_module(place))[name]
        assert not (init_of(package).parent / f"{name}.py").exists(), f"{name} is a module of this name, too"
        assert not (init_of(package).parent / name).is_dir(), f"{name} is a package of this name, too"
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        module.nothing  # noqa: B018


def test_packages_load_nothing_before_something_of_them_is_used(clean_python) -> None:
    names = ", ".join(f"threedistill.{package}".strip(".") for package in PACKAGES)
    assert clean_python(f"import sys, {names}; print('torch' in sys.modules)").strip() == "False"
    assert clean_python("from threedistill.guidance import SDS; print(SDS.__name__)").strip() == "SDS"


def test_the_list_for_type_checkers_is_all_that_the_packages_import() -> None:
    for package in PACKAGES:
        tree = ast.parse(init_of(package).read_text(encoding="utf-8"))
        imported = {ast.unparse(node) for node in tree.body if isinstance(node, ast.ImportFrom)}
        assert imported == {
            "from __future__ import annotations", "from typing import TYPE_CHECKING",
            "from threedistill.lazy import lazily",
        }  # fmt: skip


def _public(tree: ast.Module) -> set[str]:
    """The functions and classes of a module that have no underscore."""
    defined = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef))
    return {node.name for node in defined if node.name[0] != "_"}


def _names(tree: ast.Module) -> tuple[set[str], set[str] | None]:
    """What a module defines or imports at its top, and what it lists in ``__all__``."""
    there: set[str] = _public(tree)
    listed_names: set[str] | None = None
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom | ast.Import):
            there |= {(name.asname or name.name).split(".")[0] for name in node.names}
    for node in tree.body:
        for target in getattr(node, "targets", [getattr(node, "target", None)]):
            there |= {leaf.id for leaf in ast.walk(target) if isinstance(leaf, ast.Name)} if target else set()
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            listed_names = set(ast.literal_eval(node.value))
    return there, listed_names


def test_modules_list_what_is_there_all_that_is_public_and_all_that_others_use() -> None:
    trees = {
        ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): ast.parse(
            file.read_text(encoding="utf-8")
        )
        for file in PACKAGE.rglob("*.py")
    }
    modules = {name: _names(tree) for name, tree in trees.items()}
    wrong = [
        f"{name}.__all__ names {missing}, which is not there"
        for name, (there, names) in modules.items()
        for missing in sorted((names or set()) - there)
    ]
    wrong += [
        f"{name}.__all__ lacks {public} (or it is the module's own: give it an underscore)"
        for name, (_, names) in modules.items()
        for public in sorted(_public(trees[name]) - (names or set()))
    ]
    for user, tree in trees.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom) or node.module not in modules or node.module == user:
                continue
            names = modules[node.module][1]
            for name in node.names:
                submodule = f"{node.module}.{name.name}" in modules
                if names is not None and name.name not in names and not submodule and name.name[0] != "_":
                    wrong.append(f"{user} uses {node.module}.{name.name}, which __all__ lacks")
    assert not wrong, "\n".join(wrong)
