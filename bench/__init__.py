"""The tables and figures of the IDS paper on edits whose truth is known, and on your own: `python -m ids3d.bench`."""

if not __name__.startswith("ids3d."):
    raise ImportError(
        f"import ids3d.{__name__}, not {__name__}: by both names its modules would be loaded twice"
    )
