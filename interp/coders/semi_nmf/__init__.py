"""Semi-NMF of MLP activations, a dictionary that is fitted all at once."""

from interp.coders.semi_nmf.dictionary import SemiNMF as SemiNMF
from interp.coders.semi_nmf.fit import fit_semi_nmf as fit_semi_nmf
