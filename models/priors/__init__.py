"""Frozen text-to-image diffusion models behind one interface (`prior.py`)."""
