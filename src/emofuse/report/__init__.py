"""What a run says to its reader: tables for a paper, plots, and one page that needs nothing beside itself."""

from __future__ import annotations

from emofuse.report.page import write_report

__all__ = ["write_report"]
