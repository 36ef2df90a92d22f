"""A run's configuration: composed from YAML groups, checked, written and read, and objects built from it.

    choices.py      the groups and their options, plug-ins' included
    composition.py  flags and overrides -> one complete plain dictionary (Hydra)
    stages.py       the parts that a stage has of its own
    schema.py       the shape of the whole, whatever it comes from
    files.py        config.yaml
    differences.py  what two of them do not share, in words
    steering.py     one setting of a run that runs
    continuation.py one more stage for a run that is finished
    spelling.py     plain data in the grammar of overrides
    places.py       what may stand where
    targets.py      which class a ``_target_`` may name
    building.py     nodes -> objects, through pydantic: constructor signatures are the schema

It is the home of every error about a configuration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from threedistill.lazy import lazily

if TYPE_CHECKING:
    from threedistill.config.building import Recipe, build, build_as, checked_class, recipe
    from threedistill.config.choices import FLAG_GROUPS, groups, options
    from threedistill.config.composition import compose, parse_override
    from threedistill.config.continuation import with_more_steps
    from threedistill.config.differences import asked_otherwise, different_settings, in_words
    from threedistill.config.files import accept, parse_yaml, read_config, write_config
    from threedistill.config.places import STAGE_PARTS
    from threedistill.config.schema import SCHEMA_VERSION, Config, check_shape, pictures, with_pictures
    from threedistill.config.spelling import spelled
    from threedistill.config.stages import stage_node, stage_part, stage_path
    from threedistill.config.steering import CHANGEABLE, with_change

__all__ = [
    "CHANGEABLE", "FLAG_GROUPS", "SCHEMA_VERSION", "STAGE_PARTS", "Config", "Recipe", "accept", "asked_otherwise",
    "build", "build_as", "check_shape", "checked_class", "compose", "different_settings", "groups", "in_words",
    "options", "parse_override", "parse_yaml", "pictures", "read_config", "recipe", "spelled", "stage_node",
    "stage_part", "stage_path", "with_change", "with_more_steps", "with_pictures", "write_config",
]  # fmt: skip

__getattr__, __dir__ = lazily(__name__, __file__)
