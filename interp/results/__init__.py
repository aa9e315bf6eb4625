"""Records: frozen results with axes and provenance, saved without pickle."""

from interp.results.ablation import AblationCheck as AblationCheck
from interp.results.agreement import Estimate as Estimate
from interp.results.agreement import MethodAgreement as MethodAgreement
from interp.results.attention import AttentionPatterns as AttentionPatterns
from interp.results.attention import HeadRole as HeadRole
from interp.results.attention import HeadScores as HeadScores
from interp.results.attention import RankedHead as RankedHead
from interp.results.comparison import MethodComparison as MethodComparison
from interp.results.comparison import MethodCost as MethodCost
from interp.results.comparison import MethodRow as MethodRow
from interp.results.conservation import Conservation as Conservation
from interp.results.history import TrainingHistory as TrainingHistory
from interp.results.lens import LensTargets as LensTargets
from interp.results.lens import LogitAttribution as LogitAttribution
from interp.results.lens import LogitLens as LogitLens
from interp.results.masking import MaskingCheck as MaskingCheck
from interp.results.provenance import Provenance as Provenance
from interp.results.record import Record as Record
from interp.results.scores import PatchScores as PatchScores
from interp.results.scores import RankedSite as RankedSite
from interp.results.scores import SiteScores as SiteScores
from interp.results.sets import RankedSet as RankedSet
from interp.results.sets import SetScores as SetScores
from interp.results.subspace import SubspaceReport as SubspaceReport
from interp.results.tokens import TokenScores as TokenScores
