"""The report of a run: tables for a paper, plots, and one self-contained page."""

from __future__ import annotations

from emofuse.report.page import write_report

__all__ = ["write_report"]
