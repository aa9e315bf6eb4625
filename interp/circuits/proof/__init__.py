"""Proof of circuits: are they faithful, complete and minimal, and could as many edges at random be so too?"""

from interp.circuits.proof.check import check_circuit as check_circuit
from interp.circuits.proof.completeness import measure_completeness as measure_completeness
from interp.circuits.proof.faithfulness import measure_faithfulness as measure_faithfulness
from interp.circuits.proof.hypotheses import check_equivalence as check_equivalence
from interp.circuits.proof.hypotheses import check_independence as check_independence
from interp.circuits.proof.hypotheses import check_minimality as check_minimality
from interp.circuits.proof.hypotheses import check_partial_necessity as check_partial_necessity
from interp.circuits.proof.hypotheses import check_sufficiency as check_sufficiency
from interp.circuits.proof.minimality import measure_minimality as measure_minimality
