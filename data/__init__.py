"""What is read from the disk: captured scenes, and images to edit. Imported as ids3d.data."""

if not __name__.startswith("ids3d."):
    raise ImportError(
        f"import ids3d.{__name__}, not {__name__}: by both names its modules would be loaded twice"
    )
