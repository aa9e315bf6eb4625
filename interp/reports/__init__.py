"""Reports: one self-contained HTML file from results and their pictures."""

from interp.reports.circuit import circuit_report as circuit_report
from interp.reports.coder import coder_report as coder_report
from interp.reports.comparison import comparison_report as comparison_report
from interp.reports.dashboard import write_dashboard as write_dashboard
from interp.reports.files import check_writable as check_writable
from interp.reports.files import write_atomically as write_atomically
from interp.reports.page import Section as Section
from interp.reports.page import Table as Table
from interp.reports.page import write_report as write_report
from interp.reports.patching import patching_report as patching_report
from interp.reports.sets import sets_report as sets_report
from interp.reports.steering import steering_report as steering_report
from interp.reports.tokens import tokens_report as tokens_report
