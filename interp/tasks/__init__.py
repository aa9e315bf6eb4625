"""Tasks: clean and corrupted prompts with answers, and the metrics that score them.

>>> from interp import tasks
>>> list(tasks.available())[:3]
['ioi', 'greater_than', 'docstring']
"""

from interp.tasks.base import NO_TOKEN as NO_TOKEN
from interp.tasks.base import PromptPairs as PromptPairs
from interp.tasks.custom import from_text as from_text
from interp.tasks.custom import from_tokens as from_tokens
from interp.tasks.files import from_dataset as from_dataset
from interp.tasks.files import from_file as from_file
from interp.tasks.grammar import is_legal as is_legal
from interp.tasks.grammar import legal_share as legal_share
from interp.tasks.grammar import parse_sentence as parse_sentence
from interp.tasks.grammar import parse_text as parse_text
from interp.tasks.metrics import KL as KL
from interp.tasks.metrics import METRICS as METRICS
from interp.tasks.metrics import Accuracy as Accuracy
from interp.tasks.metrics import CallableMetric as CallableMetric
from interp.tasks.metrics import LogitDiff as LogitDiff
from interp.tasks.metrics import Loss as Loss
from interp.tasks.metrics import Metric as Metric
from interp.tasks.metrics import MetricLike as MetricLike
from interp.tasks.metrics import PairAccuracy as PairAccuracy
from interp.tasks.metrics import Probability as Probability
from interp.tasks.metrics import ProbDiff as ProbDiff
from interp.tasks.metrics import Rank as Rank
from interp.tasks.metrics import Reads as Reads
from interp.tasks.metrics import evaluate_metric as evaluate_metric
from interp.tasks.metrics import recovered_score as recovered_score
from interp.tasks.metrics import resolve_metric as resolve_metric
from interp.tasks.registry import TASKS as TASKS
from interp.tasks.registry import TaskKind as TaskKind
from interp.tasks.registry import available as available
from interp.tasks.registry import load as load
from interp.tasks.world import generate_tokens as generate_tokens
