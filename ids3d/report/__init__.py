"""Reports: tables, claims and figures in one HTML file, and the statistics that they quote."""

from __future__ import annotations
