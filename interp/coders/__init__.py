"""Sparse coders: autoencoders and transcoders of many kinds, their training, and what they found.

``config`` says what a coder is, ``encoders/`` how latents fire (one small file a rule), ``coder`` and its siblings
how encoders and decoders are wired (``cross_layer``, ``crosscoder``, ``matryoshka``, ``discrete``);
``sources/`` where activations come from, ``train/`` one trainer for all, ``files`` and ``saelens`` the formats;
``substitute`` puts coders into a model, ``ground_truth/``, ``probing/`` and ``dashboard/`` tell what they found.
"""

from interp.coders.batch import CoderBatch as CoderBatch
from interp.coders.coder import Coder as Coder
from interp.coders.coder import CoderLoss as CoderLoss
from interp.coders.config import CoderConfig as CoderConfig
from interp.coders.cross_layer import CrossLayerTranscoder as CrossLayerTranscoder
from interp.coders.crosscoder import Crosscoder as Crosscoder
from interp.coders.discrete import DiscreteCoder as DiscreteCoder
from interp.coders.make import make_coder as make_coder
from interp.coders.matryoshka import MatryoshkaCoder as MatryoshkaCoder
from interp.coders.shape import CoderShape as CoderShape
from interp.coders.train import TrainingConfig as TrainingConfig
from interp.coders.train import TrainingInterrupted as TrainingInterrupted
from interp.coders.train import train_coder as train_coder
from interp.coders.train import train_coders as train_coders
