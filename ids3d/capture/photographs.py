"""Photographs in a folder: found, turned upright, and what EXIF says of their lens."""

from __future__ import annotations

import importlib
import io
import math
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageCms, ImageOps

from ids3d.errors import UserError

HEIC = {".heic", ".heif", ".hif"}
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"} | HEIC

_EXIF = 0x8769  # where the camera's own tags are
_MAKE, _MODEL = 0x010F, 0x0110
_FOCAL, _FOCAL_35MM, _LENS = 0x920A, 0xA405, 0xA434
_PER_UNIT, _UNIT, _WIDTH = (
    0xA20E,
    0xA210,
    0xA002,
)  # pixels of the sensor a unit; the unit; pixels of the picture
_UNITS = {2: 25.4, 3: 10.0, 4: 1.0, 5: 1e-3}  # mm
_DIAGONAL_35MM = math.hypot(36, 24)  # what CIPA DC-008 has the angle of view held against


@dataclass(frozen=True)
class Photograph:
    """An image file whose header has been read.

    Attributes:
        path: where it is.
        width, height: in pixels, upright.
        lens: what tells its camera, lens and zoom from others; "" where EXIF says nothing.
        focal: focal length in pixels, where EXIF says it.
    """

    path: Path
    width: int
    height: int
    lens: str
    focal: float | None


def find(folder: Path) -> list[Path]:
    """The image files of a folder, sorted by name; hidden ones do not count.

    Raises UserError: it cannot be listed, or some are HEIC and pillow-heif is not installed.
    """
    try:
        files = [p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
        files = sorted((p for p in files if p.is_file()), key=lambda p: p.name)
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}") from error
    if any(p.suffix.lower() in HEIC for p in files):
        try:
            importlib.import_module("pillow_heif").register_heif_opener()
        except ImportError:
            raise UserError(
                f"{folder} has HEIC pictures, which need pillow-heif: pip install -e '.[capture]'"
            ) from None
    return files


def inspect(path: Path) -> Photograph:
    """Read a photograph's header. Raises UserError: it is no readable image."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            exif = image.getexif()
            tags = {**exif, **exif.get_ifd(_EXIF)}
            turned = exif.get(0x0112, 1) in (5, 6, 7, 8)
    except Exception as error:  # Pillow's decoders raise whatever a damaged file leads them to
        raise _unreadable(path, error) from error
    if min(width, height) < 16:
        raise UserError(f"{path} has {width}x{height} pixels: too few to find anything in; remove it")
    focal = _focal(tags, width, height)
    said = [str(tags.get(tag, "")).strip("\0 ") for tag in (_MAKE, _MODEL, _LENS)]
    zoom = f"{focal:.0f} pixels" if focal else ""
    lens = ", ".join(word for word in (*said, zoom) if word)
    if turned:
        width, height = height, width
    return Photograph(path, width, height, lens, focal)


def load(path: Path) -> Image.Image:
    """Return a photograph upright, as RGB in sRGB; transparent parts are black.

    Raises UserError: it is damaged, or not of 8 bits a channel.
    """
    try:
        with Image.open(path) as image:
            image.load()
            profile = image.info.get("icc_profile")
            upright = ImageOps.exif_transpose(image)
    except Exception as error:  # as above
        raise _unreadable(path, error) from error
    if upright.mode.startswith(("I", "F")):
        raise UserError(f"{path} is of mode {upright.mode}: save it with 8 bits per channel")
    if upright.has_transparency_data:
        clear = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", clear.size, "black"), clear)
    rgb = upright.convert("RGB")
    return _srgb(rgb, profile) if profile and upright.mode in ("RGB", "RGBA") else rgb


def _srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """From the colours of a profile (a phone's Display P3) to sRGB; as they are where the profile is damaged."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        made = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"))
    except (ImageCms.PyCMSError, OSError):
        return image
    return image if made is None else made


def _focal(tags: dict[int, object], width: int, height: int) -> float | None:
    """Focal length in pixels from EXIF: its equivalent on 35 mm film, or millimetres and the sensor's pixels."""
    film = _number(tags.get(_FOCAL_35MM))
    if film:
        return film / _DIAGONAL_35MM * math.hypot(width, height)
    focal, density = _number(tags.get(_FOCAL)), _number(tags.get(_PER_UNIT))
    unit = _UNITS.get(int(_number(tags.get(_UNIT)) or 2))
    if focal and density and unit:
        full = _number(tags.get(_WIDTH)) or width
        pixels = focal * density / unit * width / full
        return pixels if 0.1 < pixels / max(width, height) < 100 else None
    return None


def _number(value: object) -> float | None:
    """A positive finite number, or None: EXIF holds zeros and fractions of nothing for what is not known."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if 0 < number < 1e9 else None


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"cannot read the picture {path}: {error or type(error).__name__}; remove it")
