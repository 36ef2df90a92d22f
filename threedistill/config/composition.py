"""From flags and overrides to one run's complete configuration, by Hydra.

Hydra composes the YAML groups in ``configs/``, those of plug-ins and of ``--config-dir``; the result is turned into a
plain dictionary at once, and the prompt is put into that dictionary as data, so no character of it is ever parsed.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threedistill.config import recommended
from threedistill.config.choices import check_option, groups
from threedistill.config.schema import SCHEMA_VERSION, Config, check_shape
from threedistill.config.spelling import spelled
from threedistill.config.stages import OWN_PART, Request, expand_stages, flat_keys, hint
from threedistill.errors import UsageError
from threedistill.messages import shown
from threedistill.plugins import config_dirs, trusted
from threedistill.resources import configs_dir
from threedistill.texts import check_prompt

__all__ = ["compose", "parse_override"]

#: Arguments of :func:`compose` that are no keys of the YAML files.
_ARGUMENTS = ("prompt", "negative", "seed", "device", "init", "images")

#: A whole number as ``1e3``, which Hydra's grammar reads as a fraction.
_POWER = re.compile(r"[+-]?\d+[eE]\+?\d+")

#: Groups of which a run may have more than one option, and where the others stand.
_FURTHER = {"student": r"learners\.\w+", "baseline": r"networks\.\w+", "scorer": r"guidance\.poses\.scorer"}

#: Longer lines are files.
_LONGEST = 100_000


def compose(
    *,
    prompt: str,
    negative: str = "",
    preset: str = "standard",
    seed: int = 0,
    representation: str | None = None,
    prior: str | None = None,
    guidance: str | None = None,
    recipe: str | None = None,
    formats: Sequence[str] | None = None,
    device: str = "auto",
    init: str | None = None,
    images: Sequence[Config] = (),
    overrides: Sequence[str] = (),
) -> Config:
    """The complete configuration of one run, as a plain dictionary.

    Arguments:
        prompt, negative: any text; stored, never parsed.
        preset, representation, prior, guidance: options of the groups of the same names; None = the default.
        recipe: a published method, an option of the group ``experiment``; what is named besides counts instead.
        seed: in [0, 2^63).
        formats: asset formats; None = the export group's own.
        device: "auto", "cpu" or "cuda".
        init: the file that the first stage starts from; None = from nothing.
        images: reference pictures, as :func:`~threedistill.config.schema.pictures` describes them.
        overrides: ``key=value`` in Hydra's grammar; ``plugins=[name]`` names packages besides the installed plug-ins.

    Raises:
        UsageError: empty prompt, unknown group option, unknown key (with the nearest valid one), a flag and an
            override that disagree, or a part of another shape.
    """
    check_prompt(prompt)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise UsageError(f"seed {shown(seed)} must be a whole number >= 0, and below 2^63")
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"device {shown(device)} is not one of auto, cpu, cuda")
    lines = [_parsed(line) for line in overrides]
    plugins = _plugins(lines)
    flags = {
        "experiment": recipe, "preset": preset, "representation": representation, "prior": prior, "guidance": guidance,
    }  # fmt: skip
    chosen = {name: value for name, value in flags.items() if value is not None}
    for name, value in chosen.items():
        check_option(name, value, plugins)
    config: Config = {
        "schema": SCHEMA_VERSION,
        "prompt": prompt,
        "negative": negative,
        "seed": seed,
        "device": device,
        "init": init,
        "images": [dict(image) for image in images],
    }
    config.update(_compose_groups(chosen, lines, plugins))
    config.pop("published", None)
    if "recipe" in config:
        if config["recipe"].get("given") and init is None:
            raise UsageError(
                f"recipe {config['recipe']['name']} works on a given mesh; give one with --init FILE"
            )
        config["recipe"] = config["recipe"]["name"]
    if formats is not None:
        config["export"]["formats"] = list(formats)
    packages = dict.fromkeys([*plugins, *_used(config, [one.package for one in trusted()])])
    config["plugins"] = list(packages)
    check_shape(config)
    return config


@dataclass(frozen=True)
class _Line:
    """One override, parsed by Hydra.

    Attributes:
        text: all of it.
        key: what stands before ``=`` and ``@``.
        value: of any type of the grammar.
        place: what stands behind ``@``; "" = nothing.
    """

    text: str
    key: str
    value: Any
    place: str = ""


def parse_override(line: str) -> tuple[str, Any]:
    """The key and the value of ``key=value``, in the one grammar of every verb.

    Raises:
        UsageError: it cannot be read, or adds or removes keys.
    """
    parsed = _parsed(line)
    return parsed.key, parsed.value


def _parsed(line: str) -> _Line:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    if "=" not in line:
        raise UsageError(f"override {shown(line)} is not of the form key=value")
    try:
        if len(line) > _LONGEST:
            raise ValueError
        parsed = OverridesParser.create().parse_override(line)
        key, value = parsed.key_or_group, parsed.value()
    except (HydraException, ValueError, RecursionError):
        raise UsageError(
            f"override {shown(line)} could not be read; quote values with special characters: key='\"value\"'"
        ) from None
    if parsed.is_delete() or parsed.is_add() or parsed.is_force_add():
        raise UsageError(
            f"override {shown(line)}: write key=value without + or ~; every valid key already exists"
        )
    if parsed.is_sweep_override():
        raise UsageError(f"override {shown(line)} names several values; threedistill sweep tries them all")
    if key in _ARGUMENTS:
        raise UsageError(f"override {shown(line)}: {key} is an argument of its own, not an override")
    if isinstance(value, float) and abs(value) < 2**63 and _POWER.fullmatch(line.partition("=")[2].strip()):
        value = int(value)  # 1e3 counts like 1000, wherever a whole number is wanted
        line = f"{key}={value}"
    return _Line(line, key, value, parsed.package or "")


def _plugins(lines: Sequence[_Line]) -> list[str]:
    """The packages that ``plugins=[...]`` names."""
    from threedistill.plugins import plugin

    named = [line for line in lines if line.key == "plugins"]
    value = named[-1].value if named else []
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise UsageError(f"plugins={shown(value)} must be a list of packages: plugins=[my_package]")
    for name in value:
        if not plugin(name, "named").found:
            raise UsageError(
                f"plugins names {name}, which Python does not find; install it, or set PYTHONPATH to the folder it is "
                "in"
            )
    return value


def _used(node: Any, packages: Sequence[str]) -> set[str]:
    """Which of the packages the targets of a configuration come from."""
    if isinstance(node, dict):
        target = str(node.get("_target_", ""))
        own = {name for name in packages if target.startswith(f"{name}.")}
        return own.union(*(_used(child, packages) for child in node.values()))
    return set().union(*(_used(child, packages) for child in node)) if isinstance(node, list) else set()


def _compose_groups(chosen: dict[str, str], lines: Sequence[_Line], plugins: Sequence[str]) -> Config:
    from hydra import initialize_config_dir
    from hydra.errors import ConfigCompositionException, HydraException
    from omegaconf.errors import OmegaConfBaseException

    recommended.register()
    known_groups = groups(plugins)
    group_lines = [f"{name}={value}" for name, value in chosen.items()]
    further: list[str] = []
    value_lines: list[tuple[str, str]] = []
    own: list[tuple[re.Match[str], _Line]] = []
    for line in lines:
        if line.place:
            _check_further(line, plugins)
            further.append(f"{line.key}@{line.place}={line.value}")
        elif line.key in known_groups and "." not in line.key:
            name = line.key
            if (
                name in chosen
                and chosen[name] != str(line.value)
                and (name != "preset" or chosen[name] != "standard")
            ):
                raise UsageError(
                    f"--{name} {chosen[name]} and the override {shown(line.text)} disagree; keep one of them"
                )
            check_option(name, line.value, plugins)
            group_lines = [g for g in group_lines if not g.startswith(f"{name}=")] + [f"{name}={line.value}"]
        elif match := OWN_PART.fullmatch(line.key):
            own.append((match, line))
        elif line.key != "plugins":
            value_lines.append((line.key, line.text))

    def unresolved(lines: Sequence[str]) -> dict[Any, Any]:
        from omegaconf import OmegaConf

        plain = OmegaConf.to_container(_composed(stamp, (*search, *lines)), resolve=False)
        assert isinstance(plain, dict)
        return plain

    def numbers_of_recipe() -> tuple[list[tuple[str, str]], list[tuple[re.Match[str], _Line]]]:
        """A recipe's own numbers, as overrides before all others: of the run and of its stages.

        Options of groups among them go to ``group_lines``, where nothing else was chosen.
        """
        base = unresolved(group_lines)
        if "recipe" not in base or base["prior"].get("recipes") == "scaled":
            return [], []
        numbers = {"budget.iterations": base["recipe"]["iterations"], **base.get("published", {})}
        parsed = [_parsed(f"{key}={spelled(value, f'published.{key}')}") for key, value in numbers.items()]
        matched = [(OWN_PART.fullmatch(line.key), line) for line in parsed]
        chosen_groups = {line.split("=")[0] for line in group_lines}
        for line in parsed:
            if line.key in known_groups and line.key not in chosen_groups and "." not in line.key:
                check_option(line.key, line.value, plugins)
                group_lines.append(line.text)
        # Without those of a part that was chosen instead of the recipe's.
        keys = {*flat_keys(unresolved(group_lines))} - set(known_groups)
        run = [(line.key, line.text) for match, line in matched if match is None and line.key in keys]
        return run, [(match, line) for match, line in matched if match is not None]

    def composed(lines: Sequence[str], values: Sequence[tuple[str, str]], strict: bool = True) -> Config:
        """The resolved configuration; values of keys that do not exist are an error, or left out."""
        from omegaconf import OmegaConf

        for line in further:  # in place of what the rule brings there, or besides
            try:
                _composed(stamp, (*search, *lines, line))
                lines = (*lines, line)
            except ConfigCompositionException:
                lines = (*lines, f"+{line}")
        plain = unresolved(lines)
        if (own := _own_student(plain)) and not any(line.startswith("student=") for line in lines):
            lines = (*lines, f"student={own}")
            plain = unresolved(lines)
        plain.pop("published", None)  # no setting: what it says has been taken over
        keys = set(flat_keys(plain))
        for key, line in values:
            if strict and key not in keys:
                raise UsageError(f"unknown key {shown(key)} in {shown(line)}{hint(key, keys)}")
        # A mapping that is empty takes any keys (weights or rates by name); who builds it knows which exist.
        used = [f"++{line}" if _at(plain, key) == {} else line for key, line in values if key in keys]
        full = _composed(stamp, (*search, *lines, *used))
        resolved = OmegaConf.to_container(full, resolve=True, throw_on_missing=True)
        if not isinstance(resolved, dict):
            raise UsageError("configs/generate.yaml does not hold a mapping")
        return {str(k): v for k, v in resolved.items()}

    roots = [folder for _, folder in config_dirs(plugins)]
    search = [f"hydra.searchpath=[{','.join(map(_as_file_url, roots))}]"] if roots else []
    files = [file for root in (configs_dir(), *roots) for file in sorted(root.rglob("*.yaml"))]
    stamp = tuple((str(file), file.stat().st_mtime_ns) for file in files)
    try:
        with initialize_config_dir(str(configs_dir()), version_base=None):
            first, first_own = numbers_of_recipe()
            value_lines, own = [*first, *value_lines], [*first_own, *own]
            config = composed(group_lines, value_lines)
            request = Request(group_lines, value_lines, composed, plugins)
            expand_stages(config, request, [(match, line.text, line.value) for match, line in own])
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(_one_line(error)) from None
    except RecursionError:
        raise UsageError("the overrides are nested too deep, or refer to themselves") from None
    return config


def _own_student(config: Mapping[Any, Any]) -> str | None:
    """The option that this prior has in place of adapters, where the rule brings those."""
    if config["student"]["name"] != "lora":
        return None
    return config["prior"].get("recommended", {}).get("student", {}).get("option")


def _at(node: Any, path: str) -> Any:
    """What stands at a key of a plain configuration."""
    for step in path.split("."):
        node = node[int(step)] if isinstance(node, list) else node[step]
    return node


def _check_further(line: _Line, plugins: Sequence[str]) -> None:
    """Refuse an option that is put elsewhere than where further learners, networks and scorers stand."""
    if line.key not in _FURTHER or not re.fullmatch(_FURTHER[line.key], line.place):
        raise UsageError(
            f"override {shown(line.text)}: only further learners and networks have names, "
            "student@learners.NAME=OPTION and baseline@networks.NAME=OPTION; without @ the option is the run's own"
        )
    check_option(line.key, line.value, plugins)


def _as_file_url(folder: Path) -> str:
    """A folder in the grammar of Hydra's overrides."""
    text = str(folder.absolute())
    if "${" in text or "\\" in text:
        raise UsageError(f"{folder}: configurations cannot be read from a path with '${{' or a backslash")
    return "'file://" + text.replace("'", "\\'") + "'"


@functools.lru_cache(maxsize=32)
def _composed(stamp: tuple[tuple[str, int], ...], lines: tuple[str, ...]) -> Any:
    """What Hydra makes of these overrides, to be read only.

    A sweep composes the same settings once per prompt and seed, and Hydra takes 0.2 s each time. ``stamp`` names the
    files and when they were written: an edited YAML is composed anew.
    """
    from hydra import compose as hydra_compose

    return hydra_compose("generate", overrides=list(lines))


def _one_line(error: BaseException) -> str:
    from omegaconf import MissingMandatoryValue

    text = " ".join(str(error).split())
    if re.search(r"Interpolation key 'prior\.recommended\.student\.", text):
        return "this prior has no network on which student=lora could grow; use student=gaussian"
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is the user's to give: {error.full_key}=PATH"
    if own := re.search(
        r"guidance=\S+ has no recommended\.\S+, nor has the prior: state it in the rule's YAML", text
    ):
        return own.group()
    return f"configuration: {text[:300]}"
