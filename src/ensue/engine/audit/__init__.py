"""Comparing what is stored with its definitions, on one snapshot; repairing, and reporting."""

from ensue.engine.audit.audit import audit, differs, repair_all
from ensue.engine.audit.report import AuditReport, Finding, format_report

__all__ = ["AuditReport", "Finding", "audit", "differs", "format_report", "repair_all"]
