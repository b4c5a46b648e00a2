"""Frozen text-to-image diffusion models behind one interface (`protocol.py`)."""
