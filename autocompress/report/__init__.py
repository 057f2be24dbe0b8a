"""A run for people and programs: tables, data, a page with pictures."""

from autocompress.report.data import as_data, best_data, failures, status_data, trial_data
from autocompress.report.explain import explanation_data, print_explanation
from autocompress.report.page import write_page
from autocompress.report.tables import output, print_best, print_failures, print_result, print_status

__all__ = [
    "as_data",
    "best_data",
    "explanation_data",
    "failures",
    "output",
    "print_best",
    "print_explanation",
    "print_failures",
    "print_result",
    "print_status",
    "status_data",
    "trial_data",
    "write_page",
]
