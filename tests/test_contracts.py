"""Interfaces: what is spelt wrongly or missing is refused when it is made or built; nobody looks what is there."""

from __future__ import annotations

import ast
import sys
import types
from pathlib import Path

import pytest

from threedistill.config import build_as
from threedistill.contracts import Contract, check_parts
from threedistill.errors import UsageError
from threedistill.guidance.trajectory import Trajectory
from threedistill.priors.analytic import DiscPrior
from threedistill.protocols import (
    Critic,
    GuidanceRule,
    ImageSpace,
    NetworkPrior,
    Prior,
    Representation,
    Student,
    Surface,
)

PACKAGE = Path(__file__).resolve().parent.parent / "threedistill"
INTERFACES = (
    Surface,
    Representation,
    ImageSpace,
    Prior,
    NetworkPrior,
    Student,
    GuidanceRule,
    Critic,
    Trajectory,
)


@pytest.mark.parametrize(
    ("base", "slip", "meant"),
    [
        (Prior, "view_groups", "view_group"), (Prior, "want", "wants"), (GuidanceRule, "trajectry", "trajectory"),
        (Representation, "bounds", "bound"), (Representation, "after_steps", "after_step"),
        (Representation, "starts_form", "starts_from"), (Surface, "surface_materials", "surface_material"),
        (Trajectory, "edit", "edits"),
    ],
)  # fmt: skip
def test_a_part_that_is_spelt_wrongly_is_refused_when_the_class_is_made(base, slip, meant):
    with pytest.raises(TypeError, match=rf"Mine\.{slip} is no part of \w+; did you mean {meant}\?"):
        type("Mine", (base,), {slip: 1})
    type("Mine", (base,), {"my_own_affair": 1})


@pytest.fixture
def plugin(monkeypatch):
    """A module of a package that the user trusts."""
    module = types.ModuleType("slipping_plugin.priors")
    monkeypatch.setitem(sys.modules, "slipping_plugin", types.ModuleType("slipping_plugin"))
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def built(cls: type):
        cls.__module__ = module.__name__
        setattr(module, cls.__name__, cls)
        node = {"_target_": f"{module.__name__}.{cls.__name__}"}
        return build_as(Prior, node, "prior.model", ["slipping_plugin"])

    return built


def test_a_part_that_is_spelt_wrongly_or_missing_is_refused_when_the_object_is_built(plugin):
    class Slip(DiscPrior):
        def __init__(self) -> None:
            super().__init__(size=8)
            self.view_groups = 4

    class Nameless(Prior):
        licence = "none"

        def __init__(self) -> None:
            whole = DiscPrior(size=8)
            self.space, self.path = whole.space, whole.path

        def conditioning(self, conditions):
            return {}

        def predict(self, x_t, level, conditioning):
            raise NotImplementedError

    with pytest.raises(UsageError, match=r"prior.model: Slip.view_groups is no part of Prior; did you mean"):
        plugin(Slip)
    with pytest.raises(UsageError, match=r"prior.model: Nameless has no name, which every Prior has"):
        plugin(Nameless)
    Nameless.name = "mine"
    assert plugin(Nameless).view_group == 1
    check_parts(DiscPrior(size=8))


#: Where one is asked for by a name in a variable, and whose it is: none of them a contract's.
BY_NAME = {
    ("contracts.py", "hasattr"): "what must be there, once, when an object is built",
    ("commands/convert.py", "hasattr"): "options of the command line",
    ("priors/prior_lora.py", "hasattr"): "what diffusers' pipelines can read",
    ("priors/space.py", "hasattr"): "what diffusers' autoencoders answer",
}


def calls(file: Path) -> list[ast.Call]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("getattr", "hasattr")
    ]


def test_nobody_looks_whether_an_interface_has_a_part():
    """No ``hasattr`` at all, and no ``getattr`` for a part of an interface or of an object that answers one."""
    parts = {name for one in INTERFACES for name in (*vars(one), *vars(one).get("__annotations__", ()))}
    parts = {name for name in parts if not name.startswith("_")}
    assert {"trajectory", "cfg", "noise_law", "bound", "splats", "pictures", "settle", "wants"} <= parts
    answering = {
        "rule", "prior", "teacher", "student", "baseline", "representation", "scene", "source", "target", "system",
        "trajectory", "space", "path", "cfg",
    }  # fmt: skip
    wrong = []
    for file in sorted(PACKAGE.rglob("*.py")):
        name = str(file.relative_to(PACKAGE))
        for call in calls(file):
            kind, asked = call.func.id, call.args[1]  # type: ignore[attr-defined]
            word = asked.value if isinstance(asked, ast.Constant) else None
            owner = ast.unparse(call.args[0]).rsplit(".", 1)[-1]
            if (kind == "hasattr" and (name, kind) not in BY_NAME) or word in parts or owner in answering:
                wrong.append(f"{name}:{call.lineno} {ast.unparse(call)}")
    assert not wrong, "declare the part in its interface, with a default:\n" + "\n".join(wrong)


def test_every_interface_is_known_here():
    """A new one is looked for too."""
    import threedistill.protocols as protocols

    known = {c for c in vars(protocols).values() if isinstance(c, type) and vars(c).get("_interface")}
    assert known <= set(INTERFACES) and all(issubclass(one, Contract) for one in INTERFACES)
