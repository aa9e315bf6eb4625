"""Models: loading, sites, capture and intervention. The only room that imports TransformerLens."""

from interp.models.cache import ActivationCache as ActivationCache
from interp.models.capture import capture as capture
from interp.models.capture import capture_stream as capture_stream
from interp.models.intervene import intervene as intervene
from interp.models.interventions import Intervention as Intervention
from interp.models.interventions import add as add
from interp.models.interventions import apply as apply
from interp.models.interventions import clamp as clamp
from interp.models.interventions import mean as mean
from interp.models.interventions import project as project
from interp.models.interventions import replace as replace
from interp.models.interventions import resample as resample
from interp.models.interventions import scale as scale
from interp.models.interventions import zero as zero
from interp.models.load import load_model as load_model
from interp.models.model import Model as Model
from interp.models.traits import Traits as Traits
