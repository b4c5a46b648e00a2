"""What a job does: reconstruct a scene, edit it, edit images, evaluate, train. Imported as ids3d.systems."""

if not __name__.startswith("ids3d."):
    raise ImportError(
        f"import ids3d.{__name__}, not {__name__}: by both names its modules would be loaded twice"
    )
