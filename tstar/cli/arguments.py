"""All commands with their options, in the order of the help."""

import argparse

from tstar.cli import arguments_evaluation as evaluation
from tstar.cli import arguments_training as training
from tstar.cli.parser import Parser


def add_commands(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add every command's parser."""
    training.add_fit(commands)
    evaluation.add_validate(commands)
    training.add_shard(commands)
    training.add_miniature(commands)
    training.add_miniature_models(commands)
    evaluation.add_score(commands)
    evaluation.add_compare(commands)
    evaluation.add_report(commands)
    evaluation.add_export(commands)
    evaluation.add_audit(commands)
    evaluation.add_ablate(commands)
    training.add_import(commands)
    training.add_plan(commands)
    evaluation.add_profile(commands)
    training.add_doctor(commands)
