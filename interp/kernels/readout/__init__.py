"""From final residual streams to what a metric reads of their logits, and no more than that.

:func:`read_tokens` takes the final norm and the logits of a few tokens of each row's own prompt in one launch,
without a copy of a row's directions. :func:`summarise_vocabulary` makes log-sum-exp, largest logits, a rank and
KL(reference || row) of the whole vocabulary, tile by tile with an online softmax (Milakov and Gimelshein 2018,
arXiv 1805.02867), as cut cross-entropy does (Wijmans et al. 2024, arXiv 2411.09009): logits [row, d_vocab] are
never stored, neither forward nor backward. The vocabulary is split over programs; a small second stage joins
their parts in a fixed order.

Known shortcomings: the summary's norm runs before its kernel, for it is a thousandth of the work and every split
of the vocabulary would repeat it; KL takes the reference's logits ready made, once a prompt, and gives them no
gradient; largest logits and ranks have no gradient. In half precision logits here stay in fp32, where a model
rounds its own: what ties there need not tie here, and KL of the reference to itself is its rounding and not 0.
Logits of given tokens are summed in another order than all others': two tokens with one direction may differ in the
last bits, also in fp32.
Summaries are fast for an unembedding stored [d_vocab, d_model], as models store it: stored the other way with a
vocabulary that is no multiple of 8 it is read a number at a time.
"""

from interp.kernels.readout.tokens.dispatch import read_tokens as read_tokens
from interp.kernels.readout.tokens.dispatch import tokens_kernel_runs as tokens_kernel_runs
from interp.kernels.readout.vocabulary.dispatch import summarise_vocabulary as summarise_vocabulary
from interp.kernels.readout.vocabulary.dispatch import vocabulary_kernel_runs as vocabulary_kernel_runs
from interp.kernels.readout.vocabulary.summary import VocabularySummary as VocabularySummary
from interp.kernels.readout.vocabulary.summary import summarise_logits as summarise_logits
