"""Makes tabletop scenes, image-edit benchmarks and contact sheets, and measures the tabletop models."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL.Image import Image

from ids3d.cli import ArgumentParser, positive_int, run_command
from ids3d.errors import UserError
from ids3d.lenses import Fisheye, RadialTangential
from ids3d.quiet import quieten_libraries
from ids3d.tabletop.edits import KINDS, sample_edit
from ids3d.tabletop.scene import HELD_OUT, around_cameras, forward_cameras, middle, open_side
from ids3d.tabletop.world import LIGHT, WORLDS, world_of

EPILOG = f"""\
Seeds below {HELD_OUT} are those that the tabletop models may be trained on; all others are held out.

examples:
  python -m ids3d.tabletop scene --seed 1000007 --edit recolour --out scenes/one
  python -m ids3d.tabletop scene --seed 1000007 --edit reshape --layout blender --out scenes/two
  python -m ids3d.tabletop scene --seed 1000007 --layout colmap --distortion -0.1 0.02 0 0 --out scenes/three
  python -m ids3d.tabletop edits --count 16 --kinds recolour reshape floor --out edits
  python -m ids3d.tabletop sheet --seeds 1000000:1000064 --out sheet.png
  python -m ids3d.tabletop cosines --world light
  python -m ids3d.tabletop evaluate --json figures.json --sheet samples.png
"""


def parser() -> ArgumentParser:
    """The command line."""
    made = ArgumentParser("python -m ids3d.tabletop", __doc__, EPILOG)
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _scene(
        commands.add_parser(
            "scene", help="a scene before and after an edit, as a folder in one of four layouts"
        )
    )
    _edits(
        commands.add_parser("edits", help="image edits as files: pictures before and after, masks, captions")
    )
    _sheet(commands.add_parser("sheet", help="a contact sheet of scenes, or of edits"))
    _cosines(
        commands.add_parser("cosines", help="whether colours lie in one direction from each floor of a world")
    )
    _evaluate(commands.add_parser("evaluate", help="measure the autoencoder, the CLIP and the prior"))
    return made


def _scene(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=run_scene)
    command.add_argument("--seed", type=int, required=True)
    command.add_argument("--edit", choices=KINDS, default="recolour", help="kind of edit (default: recolour)")
    command.add_argument(
        "--objects", type=int, choices=(1, 2, 3), help="how many before it (default: by the seed)"
    )
    command.add_argument("--layout", choices=("llff", "blender", "transforms", "colmap"), default="llff")
    command.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="new or empty")
    command.add_argument("--views", type=positive_int, help="(default: 24; 60 to train on for blender)")
    command.add_argument(
        "--size", type=positive_int, default=192, help="of the pictures, pixels (default: 192)"
    )
    command.add_argument(
        "--supersampling", type=positive_int, default=3, help="squared, the rays of a pixel (default: 3)"
    )
    command.add_argument(
        "--spread",
        type=float,
        default=28.0,
        help="not blender: of the arc of cameras, ± degrees (default: 28)",
    )
    command.add_argument(
        "--around", action="store_true", help="cameras all around, as blender's always are, not on an arc"
    )
    command.add_argument(
        "--distortion",
        type=float,
        nargs=4,
        metavar=("K1", "K2", "P1", "P2"),
        help="transforms, colmap: of the lens, OpenCV's; with --fisheye, K1 K2 K3 K4 of its fisheye model",
    )
    command.add_argument("--fisheye", action="store_true", help="transforms, colmap: a fisheye lens")
    command.add_argument(
        "--room", action="store_true", help="blender: with floor and walls, not on transparency"
    )
    command.add_argument("--depth", action="store_true", help="blender: depth maps too")


def run_scene(given: argparse.Namespace) -> None:
    """Write one scene's folder."""
    from ids3d.tabletop.folders import write_blender, write_colmap, write_llff, write_transforms

    _check_objects((given.edit,), given.objects)
    bent = given.fisheye or given.distortion is not None
    if bent and given.layout not in ("transforms", "colmap"):
        raise UserError(f"--layout {given.layout} has no lens distortion: --layout transforms or colmap")
    edit = sample_edit(given.seed, (given.edit,), given.objects)
    if given.layout == "blender":
        count = given.views or 60
        cameras = around_cameras(given.seed, count + 20, given.size)
        splits = {"train": cameras[20:], "val": cameras[:10], "test": cameras[10:20]}
        write_blender(given.out, edit, splits, given.supersampling, room=given.room, depth=given.depth)
    else:
        side, target, count = open_side(edit.before), middle(edit.before), given.views or 24
        cameras = (
            around_cameras(given.seed, count, given.size)
            if given.around
            else forward_cameras(given.seed, count, given.size, side, given.spread, target)
        )
        lens = (Fisheye if given.fisheye else RadialTangential)(*(given.distortion or ())) if bent else None
        if given.layout == "llff":
            write_llff(given.out, edit, cameras, given.supersampling)
        else:
            write = write_transforms if given.layout == "transforms" else write_colmap
            write(given.out, edit, cameras, given.supersampling, lens)
    print(f"{given.out}: {edit.source!r} -> {edit.target!r}")


def _edits(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=run_edits)
    command.add_argument("--count", type=positive_int, default=16, help="how many (default: 16)")
    command.add_argument(
        "--kinds", nargs="+", choices=KINDS, default=KINDS, help="they take turns (default: all)"
    )
    command.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="new or empty")
    command.add_argument(
        "--first", type=int, default=HELD_OUT, metavar="SEED", help=f"(default: {HELD_OUT}, held out)"
    )
    command.add_argument(
        "--objects", type=int, choices=(1, 2, 3), help="how many before the edit (default: by the seed)"
    )
    command.add_argument(
        "--size", type=positive_int, default=128, help="of the pictures, pixels (default: 128)"
    )


def run_edits(given: argparse.Namespace) -> None:
    """Write a benchmark of image edits."""
    from ids3d.tabletop.benchmark import write_edits

    _check_objects(given.kinds, given.objects)
    write_edits(
        given.out, range(given.first, given.first + given.count), given.kinds, given.size, given.objects
    )
    print(f"{given.out}: {given.count} edits, listed in prompts.csv")


def _sheet(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=run_sheet)
    command.add_argument("--seeds", type=_seeds, default=range(HELD_OUT, HELD_OUT + 48), metavar="FROM:TO")
    command.add_argument(
        "--edit", choices=KINDS, help="show this kind of edit of each seed: before, after, mask"
    )
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="a picture file")
    _add_world(command)
    command.add_argument("--columns", type=positive_int, default=8)
    command.add_argument(
        "--size", type=positive_int, default=128, help="of each picture, pixels (default: 128)"
    )


def run_sheet(given: argparse.Namespace) -> None:
    """Save a contact sheet of the seeds' scenes."""
    from ids3d.progress import track
    from ids3d.tabletop.sheet import contact_sheet, edit_cell, scene_cell

    seeds = track(given.seeds, "rendering", unit="picture")
    kind, size, world = given.edit, given.size, WORLDS[given.world]
    cells = [edit_cell(s, kind, size, world) if kind else scene_cell(s, size, world) for s in seeds]
    _save(given.out, contact_sheet(cells, given.columns, given.size))


def _cosines(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=run_cosines)
    _add_world(command)
    command.add_argument(
        "--size", type=positive_int, default=128, help="of the images, pixels (default: 128)"
    )
    command.add_argument("--scenes", type=positive_int, default=4, help="on each floor (default: 4)")
    command.add_argument(
        "--prior",
        type=Path,
        metavar="FOLDER",
        help="measure in the latents of its autoencoder too, in its world at its size",
    )


def run_cosines(given: argparse.Namespace) -> None:
    """Print for every two colours and every floor the cosine of their ways from the floor."""
    from ids3d.tabletop.cosines import cosines, latents_of, table

    world, size = WORLDS[given.world], given.size
    if given.prior is not None:
        if not (given.prior / "vae" / "config.json").is_file():
            raise UserError(f"--prior {given.prior}: there is no autoencoder in {given.prior / 'vae'}")
        world, size = world_of(given.prior)
    print(f"red, green, blue ({world.name})\n{table(world, cosines(world, size, scenes=given.scenes))}")
    if given.prior is not None:
        quieten_libraries()
        seen = cosines(world, size, latents_of(given.prior, "cpu"), given.scenes)
        print(f"\nlatents of {given.prior}\n{table(world, seen)}")


def _evaluate(command: argparse.ArgumentParser) -> None:
    from ids3d.tabletop.evaluate import PARTS, PRIOR, EvaluationConfig

    command.set_defaults(run=run_evaluate)
    command.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the figures go")
    command.add_argument(
        "--prior", type=Path, default=PRIOR, metavar="FOLDER", help="(default: the one that ships)"
    )
    command.add_argument("--sheet", type=Path, metavar="FILE", help="a contact sheet of the samples")
    command.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="(default: all)")
    command.add_argument(
        "--guidance-scale", type=float, default=EvaluationConfig.guidance_scale, help="(default: %(default)s)"
    )
    command.add_argument(
        "--steps", type=positive_int, default=EvaluationConfig.steps, help="of DDIM (default: %(default)s)"
    )
    command.add_argument(
        "--prompts",
        type=positive_int,
        default=EvaluationConfig.prompts,
        help="sampled captions (default: %(default)s)",
    )
    command.add_argument(
        "--edits",
        type=positive_int,
        default=EvaluationConfig.edits,
        help="recolourings, and as many reshapes (default: %(default)s)",
    )
    command.add_argument(
        "--seed", type=int, default=EvaluationConfig.seed, help="of the samples' noise (default: %(default)s)"
    )
    command.add_argument("--device", default="cpu", help="(default: cpu)")


def run_evaluate(given: argparse.Namespace) -> None:
    """Measure a prior, write the figures and print them."""
    from ids3d.tabletop.evaluate import EvaluationConfig, evaluate

    quieten_libraries()
    cfg = EvaluationConfig(
        prompts=given.prompts,
        steps=given.steps,
        guidance_scale=given.guidance_scale,
        seed=given.seed,
        edits=given.edits,
    )
    report = evaluate(given.prior, cfg, given.only, given.device)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report.figures, indent=2) + "\n"
    given.json.write_text(text, encoding="utf-8")
    print(text, end="")
    if given.sheet and report.samples:
        from ids3d.tabletop.sheet import contact_sheet

        _save(given.sheet, contact_sheet(report.samples[:128], columns=16, side=64), "--sheet")


def _add_world(command: argparse.ArgumentParser) -> None:
    command.add_argument("--world", choices=WORLDS, default=LIGHT.name, help="(default: %(default)s)")


def _check_objects(kinds: Sequence[str], objects: int | None) -> None:
    if objects == 1 and "remove" in kinds:
        raise UserError(
            "the only object of a scene can't be removed: --objects 2 or 3, or another kind of edit"
        )
    if objects == 3 and "add" in kinds:
        raise UserError("a scene holds three objects at most: --objects 1 or 2, or another kind of edit")


def _save(path: Path, picture: Image, option: str = "--out") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        picture.save(path)
    except ValueError as error:  # Pillow's complaint about the suffix
        raise UserError(f"{option} {path}: {error}") from error
    print(path)


def _seeds(text: str) -> range:
    first, _, last = text.partition(":")
    seeds = range(int(first), int(last) if last else int(first) + 1)
    if not seeds:
        raise argparse.ArgumentTypeError(f"there are no seeds from {first} to below {last}")
    return seeds


def main(argv: Sequence[str]) -> None:
    """Carry out a command line. Raises UserError."""
    given = parser().parse_args(argv)
    given.run(given)


if __name__ == "__main__":
    sys.exit(run_command(main))
