"""Keep to themselves what the model libraries say about themselves: a command says what it does in its own words."""

from __future__ import annotations


def quieten_libraries() -> None:
    """Silence transformers' and diffusers' bars ("Loading weights: 0%") and remarks, in this process from now on.

    Errors are still said, and downloads from the hub keep their bars. Every command calls this before it loads a model;
    who imports ids3d decides for themselves.
    """
    import diffusers  # seconds to import: only who loads models pays
    import transformers
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, enable_progress_bars

    downloads = not are_progress_bars_disabled()
    for library in (transformers, diffusers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
    if downloads:  # which transformers has turned off with its own
        enable_progress_bars()
