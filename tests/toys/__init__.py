"""Modules as a user would write them: one file each, copied out of the project and named by import path."""
