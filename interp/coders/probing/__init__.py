"""What latents know of labelled attributes: sparse probes, ablations seen by probes, and best detectors."""

from interp.coders.probing.labels import AttributeData as AttributeData
from interp.coders.probing.match import match_attributes as match_attributes
from interp.coders.probing.perturb import perturb_probes as perturb_probes
from interp.coders.probing.shortcut import remove_shortcuts as remove_shortcuts
from interp.coders.probing.sparse import probe_latents as probe_latents
from interp.coders.probing.world import attribute_data as attribute_data
