"""Training of sparse coders: one trainer for every architecture."""

from interp.coders.train.config import TrainingConfig as TrainingConfig
from interp.coders.train.curves import Callback as Callback
from interp.coders.train.run import CoderTraining as CoderTraining
from interp.coders.train.signals import TrainingInterrupted as TrainingInterrupted
from interp.coders.train.tensorboard import TensorBoardLog as TensorBoardLog
from interp.coders.train.train import train_coder as train_coder
from interp.coders.train.train import train_coders as train_coders
