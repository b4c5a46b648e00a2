"""Features and matches in COLMAP's database, some pictures and some pairs at a time, so that a killed run goes on."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from ids3d.capture.colmap import pycolmap
from ids3d.capture.effort import Effort
from ids3d.capture.pictures import Pictures
from ids3d.files import atomic_write
from ids3d.progress import Progress

DATABASE = "database.db"

MOST_FEATURES = 8192  # of a picture
FOCAL_GUESS = 1.2  # in longest sides, where EXIF says nothing: COLMAP's, an angle of view of 45 degrees

WINDOW = 10  # pictures of a video that each is matched with, after it; then 16, 32, 64, ... further on
LOOPS = 40  # pictures spread over the video that are all matched with each other, to find where it comes back


def extract(
    folder: Path, pictures: Pictures, images: Path, camera_model: str, effort: Effort, threads: int
) -> None:
    """Fill the database in `folder` with the pictures, their cameras and their SIFT features.

    The order of cameras and pictures is that of `pictures`, and so does not depend on the number of threads.
    """
    colmap = pycolmap()
    path = folder / DATABASE
    if not path.exists():
        with atomic_write(path) as file, colmap.Database.open(file) as database:
            _write_pictures(database, pictures, camera_model)
    with colmap.Database.open(path) as database:
        missing = [i.name for i in database.read_all_images() if not database.exists_descriptors(i.image_id)]
    options = colmap.FeatureExtractionOptions(num_threads=threads, use_gpu=False)
    options.sift.peak_threshold = effort.peak_threshold
    options.sift.estimate_affine_shape = options.sift.domain_size_pooling = effort.affine
    options.sift.max_num_features = MOST_FEATURES
    total = len(pictures.pictures)
    progress = Progress("finding features", total, total - len(missing), "picture")
    for names in _blocks(missing, threads):
        colmap.extract_features(
            path, images, image_names=names, extraction_options=options, device=colmap.Device.cpu
        )
        for _ in names:
            progress.advance()
    progress.close()


def match(
    folder: Path, features: Path, pairs: Sequence[tuple[str, str]], effort: Effort, seed: int, threads: int
) -> None:
    """Copy the database of `features` to `folder`, and match and verify these pairs of pictures in it."""
    colmap = pycolmap()
    path = folder / DATABASE
    if not path.exists():
        with atomic_write(path) as file:
            shutil.copyfile(features / DATABASE, file)
    with colmap.Database.open(path) as database:
        ids = {i.name: i.image_id for i in database.read_all_images()}
        missing = [p for p in pairs if not database.exists_two_view_geometry(ids[p[0]], ids[p[1]])]
    matching = colmap.FeatureMatchingOptions(
        num_threads=threads, use_gpu=False, guided_matching=effort.guided
    )
    matching.sift.max_ratio = effort.max_ratio
    verifying = colmap.TwoViewGeometryOptions()
    verifying.ransac.random_seed = seed
    pairing = colmap.ImportedPairingOptions(match_list_path=folder / "pairs.txt")
    progress = Progress("matching", len(pairs), len(pairs) - len(missing), "pair")
    for block in _blocks(missing, 8 * threads):
        (folder / "pairs.txt").write_text("".join(f"{a} {b}\n" for a, b in block), encoding="utf-8")
        colmap.match_image_pairs(path, matching, pairing, verifying, colmap.Device.cpu)
        for _ in block:
            progress.advance()
    progress.close()


def pairs_of(names: Sequence[str], matcher: str) -> list[tuple[str, str]]:
    """Which pictures to match: "exhaustive", all with all; "sequential", each with those that soon follow it.

    Example:
        >>> len(pairs_of("abcde", "exhaustive"))
        10
        >>> many = pairs_of([str(i) for i in range(300)], "sequential")
        >>> len(many) < 300 * 25, ("0", "10") in many, ("0", "12") in many, ("3", "35") in many
        (True, True, False, True)
    """
    count = len(names)
    if matcher == "exhaustive":
        return [(names[i], names[j]) for i in range(count) for j in range(i + 1, count)]
    steps = [*range(1, WINDOW + 1), *(2**k for k in range(4, 20))]
    wanted = {(i, i + step) for i in range(count) for step in steps if i + step < count}
    spread = range(0, count, -(-count // LOOPS))
    wanted |= {(i, j) for i in spread for j in spread if i < j}
    return [(names[i], names[j]) for i, j in sorted(wanted)]


def _write_pictures(database, pictures: Pictures, camera_model: str) -> None:  # type: ignore[no-untyped-def]
    colmap = pycolmap()
    rigs: dict[int, tuple[int, int]] = {}
    for picture in pictures.pictures:
        if picture.camera not in rigs:
            focal = picture.focal or FOCAL_GUESS * max(pictures.width, pictures.height)
            camera = colmap.Camera.create_from_model_name(
                colmap.INVALID_CAMERA_ID, camera_model, focal, pictures.width, pictures.height
            )
            camera.has_prior_focal_length = picture.focal is not None
            camera.camera_id = database.write_camera(camera)
            rig = colmap.Rig()
            rig.add_ref_sensor(camera.sensor_id)
            rigs[picture.camera] = camera.camera_id, database.write_rig(rig)
        camera_id, rig_id = rigs[picture.camera]
        image = colmap.Image(name=picture.name, camera_id=camera_id)
        image.image_id = database.write_image(image)
        frame = colmap.Frame(rig_id=rig_id)
        frame.add_data_id(image.data_id)
        database.write_frame(frame)


def _blocks(items: list, size: int) -> list[list]:
    return [items[k : k + size] for k in range(0, len(items), size)]
