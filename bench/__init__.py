"""The tables and figures of the IDS paper on edits whose truth is known, and on a user's own: `python -m ids3d.bench`.

This package stands on top of all others, although it lies in ids3d: it runs what models/ and systems/ hold.
"""
