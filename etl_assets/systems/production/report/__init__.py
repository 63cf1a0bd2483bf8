"""The correlation report: findings from the tables, in words and charts, as one page with the same numbers as CSV and JSON."""

from etl_assets.systems.production.report.findings import Findings, LeftOut, read_findings
from etl_assets.systems.production.report.page import ReportFiles, write_report

__all__ = ["Findings", "LeftOut", "ReportFiles", "read_findings", "write_report"]
