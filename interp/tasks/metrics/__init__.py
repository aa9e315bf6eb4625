"""Metrics: what a patched run is scored by.

A metric says what it reads (:class:`Reads`: some columns of the sequence, and a few vocabulary
entries or all of them) and turns just that into one number a row. A sweep can then compute only
what is read, and of a whole vocabulary no more than some statistics (:class:`StatisticsRead`). Any
callable on full logits is a metric too (:class:`CallableMetric`).
"""

from interp.tasks.metrics.answers import Accuracy as Accuracy
from interp.tasks.metrics.answers import AnswerMetric as AnswerMetric
from interp.tasks.metrics.answers import LogitDiff as LogitDiff
from interp.tasks.metrics.answers import Loss as Loss
from interp.tasks.metrics.answers import PairAccuracy as PairAccuracy
from interp.tasks.metrics.answers import Probability as Probability
from interp.tasks.metrics.answers import ProbDiff as ProbDiff
from interp.tasks.metrics.answers import Rank as Rank
from interp.tasks.metrics.contract import Metric as Metric
from interp.tasks.metrics.contract import Reads as Reads
from interp.tasks.metrics.contract import Statistics as Statistics
from interp.tasks.metrics.contract import StatisticsRead as StatisticsRead
from interp.tasks.metrics.contract import evaluate_metric as evaluate_metric
from interp.tasks.metrics.contract import statistics_read_by as statistics_read_by
from interp.tasks.metrics.custom import CallableMetric as CallableMetric
from interp.tasks.metrics.divergence import KL as KL
from interp.tasks.metrics.resolve import METRICS as METRICS
from interp.tasks.metrics.resolve import MetricLike as MetricLike
from interp.tasks.metrics.resolve import recovered_score as recovered_score
from interp.tasks.metrics.resolve import resolve_metric as resolve_metric
