"""A run's configuration: composed from YAML groups, checked, written and read, and objects built from it.

    choices.py      the groups and their options, plug-ins' included
    composition.py  flags and overrides -> one complete plain dictionary (Hydra)
    stages.py       the parts that a stage has of its own
    schema.py       the shape of the whole, whatever it comes from
    files.py        config.yaml
    places.py       what may stand where
    targets.py      which class a ``_target_`` may name
    building.py     nodes -> objects, through pydantic: constructor signatures are the schema

It is the home of every error about a configuration.
"""

from threedistill.config.building import build, build_as, check_arguments, checked_class
from threedistill.config.choices import FLAG_GROUPS, groups, options
from threedistill.config.composition import compose, parse_override
from threedistill.config.files import accept, parse_yaml, read_config, write_config
from threedistill.config.places import STAGE_PARTS
from threedistill.config.schema import SCHEMA_VERSION, Config, check_prompt, check_shape
from threedistill.config.stages import stage_node, stage_part, stage_path

__all__ = [
    "FLAG_GROUPS", "SCHEMA_VERSION", "STAGE_PARTS", "Config", "accept", "build", "build_as", "check_arguments",
    "check_prompt", "check_shape", "checked_class", "compose", "groups", "options", "parse_override", "parse_yaml",
    "read_config", "stage_node", "stage_part", "stage_path", "write_config",
]  # fmt: skip
