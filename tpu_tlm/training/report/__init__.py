"""The report of runs: one HTML page without outside files, from what the run directories hold."""

from tpu_tlm.training.report.write import write_report

__all__ = ["write_report"]
