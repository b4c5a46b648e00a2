"""Table 1: images edited by every method, where the true edit is known, and a user's own."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ids3d.bench import options
from ids3d.bench.comparison import compare
from ids3d.bench.edits import SnapshotConfig, run_edits
from ids3d.bench.image_metrics import ImageMetrics
from ids3d.bench.methods import IMAGE_METHODS, Method
from ids3d.bench.study import Study, StudyContext, open_context
from ids3d.cli import ArgumentParser
from ids3d.report.page import Report
from ids3d.tasks import EditTask

QUICK_EDITS, QUICK_STEPS = 6, 10


def study(
    context: StudyContext, metrics: ImageMetrics, tasks: Sequence[EditTask], methods: Sequence[Method]
) -> Report:
    """Edit every task's image by every method and compare."""
    records = run_edits(context, metrics, tasks, methods, SnapshotConfig())
    about = f"{len(tasks)} edits by {', '.join(records)}."
    return compare("Editing images", about, "images", context, metrics, records)


def add_options(command: ArgumentParser) -> None:
    options.add_methods(command, IMAGE_METHODS)
    options.add_edits(command, 64)
    options.add_folder(command)
    options.add_steps(command)
    options.add_metrics(command)


def run(arguments: argparse.Namespace, command: str) -> Report:
    """Do what the arguments say. Raises UserError."""
    edits, steps = (QUICK_EDITS, QUICK_STEPS) if arguments.quick else (arguments.edits, arguments.steps)
    context = open_context(arguments, command, steps)
    tasks = options.edit_tasks(arguments, context.prior, edits)
    methods = options.build_methods(context, arguments)
    return study(context, options.load_metrics(arguments, context.prior), tasks, methods)


STUDY = Study("images", "images edited by every method", add_options, run)
