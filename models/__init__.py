"""What is trained or called: geometry, renderers, diffusion priors, guidance and samplers. Imported as ids3d.models."""

if not __name__.startswith("ids3d."):
    raise ImportError(
        f"import ids3d.{__name__}, not {__name__}: by both names its modules would be loaded twice"
    )
