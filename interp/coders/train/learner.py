"""One coder in training: its optimiser, its schedules, its dead latents, and one step of it."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.coders.batch import CoderBatch
from interp.coders.coder import Coder, CoderLoss
from interp.coders.encoders import StepState
from interp.coders.train.config import TrainingConfig
from interp.coders.train.distributed import Processes
from interp.coders.train.optimizers import ScheduleFreeAdam, make_optimizer
from interp.coders.train.resample import forget_dead, resample_dead
from interp.coders.train.schedules import Schedule, steer_sparsity
from interp.coders.train.start import Scales, describe_rows, find_scales, start_bias
from interp.coders.train.window import Window, measure_step
from interp.errors import CoderError


class CoderLearner:
    """Trains one coder, a batch at a time, in units that its scales make.

    ``steps`` is the length of the training, ``None`` where it is not known.
    """

    def __init__(
        self, coder: Coder, training: TrainingConfig, steps: int | None, processes: Processes
    ) -> None:
        self.coder = coder
        self.training = training
        self.processes = processes
        self.schedule = Schedule(training, coder.config, steps)
        self.optimizer = make_optimizer(coder.parameters(), training, self.schedule.rate(0))
        self.dead_after = training.dead_rows(steps)
        self.scales = Scales()
        self.n_steps = 0
        self.window = Window()
        self.since_fired = torch.zeros(
            len(coder.encoders), coder.d_sae, dtype=torch.long, device=coder.b_dec.device
        )
        """Rows since each latent last fired."""
        default = coder.encoder_list[0].default_sparsity
        wanted = coder.config.sparsity
        self.coefficient = float(wanted if wanted is not None else default or 0.0)
        """Of the sparsity penalty, its warm-up left aside."""

    def start(self, rows: CoderBatch) -> None:
        """Find scales and the decoder's bias from the first rows; every process gets the first one's.

        Raises :class:`CoderError` for rows that are not finite, or all zero.
        """
        self.scales = find_scales(rows, self.training)
        start_bias(self.coder, self.scales.apply(rows), self.training)
        inputs, outputs = self.processes.from_first([self.scales.inputs, self.scales.outputs])
        self.scales = Scales(inputs, outputs)
        self.processes.share(list(self.coder.state_dict().values()))

    @property
    def dead(self) -> Bool[Tensor, "encoder d_sae"]:
        """Latents that have not fired for long."""
        return self.since_fired >= self.dead_after

    @property
    def dead_frac(self) -> float:
        """Share of them."""
        return float(self.dead.float().mean())

    def state_now(self) -> StepState:
        """What the next step tells the coder."""
        training = self.training
        return StepState(
            k=self.schedule.k(self.n_steps),
            sparsity=self.coefficient * self.schedule.sparsity_share(self.n_steps),
            dead=self.dead,
            revival=training.revival if training.revival in ("auxk", "ghost") else "none",
            aux_k=training.aux_k,
            aux_coefficient=training.aux_coefficient,
        )

    def step(self, batch: CoderBatch, rows: int | None = None) -> CoderLoss:
        """Train on one batch, in units of the activations; returns its loss, in training units.

        ``rows`` counts those of all processes. Raises :class:`CoderError` for a loss or gradient that is not
        finite; weights are then as before.
        """
        self.coder.train()
        rows = len(batch) if rows is None else rows
        units = self.scales.apply(batch)
        # a notebook may have switched gradients off for everything else that it does
        with torch.enable_grad():
            loss = self.coder.loss(units, self.state_now())
            loss.loss.backward()
        self.processes.average_gradients(self.coder, len(batch) / rows)
        self._check_finite(batch, loss.loss.detach(), self._shorten_gradients())
        self._move()
        self._count(loss, units, rows)
        if self.schedule.resamples(self.n_steps):
            self._resample(units, loss)
        self.n_steps += 1
        return loss

    def _shorten_gradients(self) -> Float[Tensor, ""]:
        """Take out what unit rows cannot follow, and bound the length; returns the length before."""
        if self.coder.config.unit_decoder:
            self.coder.project_gradients()
        limit = self.training.gradient_norm
        return torch.nn.utils.clip_grad_norm_(
            self.coder.parameters(), float("inf") if limit is None else limit
        )

    def _check_finite(self, batch: CoderBatch, loss: Tensor, length: Tensor) -> None:
        checked = loss + length
        weighs_grad = batch.grad is not None and self.coder.config.firing == "gradient"
        if weighs_grad and batch.grad is not None:
            checked = checked + batch.grad.sum()
        if bool(checked.isfinite()):
            return
        self.optimizer.zero_grad(set_to_none=True)
        for name in ("x", "target", "grad"):
            values = getattr(batch, name)
            if values is not None and not bool(values.isfinite().all()):
                raise CoderError(
                    f"step {self.n_steps} got activations that are not finite: in {name}, {describe_rows(values)}. "
                    "Look at what the model or the file gives there (fp16 overflows at 65,504); weights are as before."
                )
        raise CoderError(
            f"step {self.n_steps} diverged: its loss is {float(loss):g}, its gradient's length {float(length):g}, on "
            f"finite activations. Take a lower learning_rate than {self.schedule.rate(self.n_steps):.3g}, or a "
            "longer warmup; weights are as before."
        )

    def _move(self) -> None:
        coder = self.coder
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(self.n_steps)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if coder.config.unit_decoder:
            if isinstance(self.optimizer, ScheduleFreeAdam):
                for weights in coder.decoder_weights():
                    self.optimizer.keep_unit_rows(weights)
            else:
                coder.normalise_decoder()
        self.processes.average_buffers(coder)

    def _count(self, loss: CoderLoss, batch: CoderBatch, rows: int) -> None:
        counts = self.processes.add_up(torch.stack([fired.active_counts() for fired in loss.fired]))
        self.since_fired = torch.where(counts > 0, 0, self.since_fired + rows)
        l0 = counts.sum() / rows
        self.window.add(measure_step(loss, batch.target.flatten(1), l0, self.processes))
        target = self.training.target_l0
        if target is not None and self.coefficient and self.schedule.sparsity_share(self.n_steps) == 1:
            self.coefficient = steer_sparsity(self.coefficient, float(l0), target)

    def _resample(self, batch: CoderBatch, loss: CoderLoss) -> None:
        dead = self.dead
        generator = torch.Generator().manual_seed(self.training.seed * 1_000_003 + self.n_steps)
        resample_dead(self.coder, batch, loss.error, dead, generator)
        self.processes.share(list(self.coder.state_dict().values()))
        forget_dead(self.coder, self.optimizer, dead)
        self.since_fired[dead] = 0

    def figures(self) -> dict[str, float]:
        """The curves' next point, from the steps since the last one; begins a new window."""
        window, self.window = self.window, Window()
        state = self.state_now()
        found = window.figures() | {
            "dead_frac": self.dead_frac,
            "learning_rate": self.schedule.rate(max(self.n_steps - 1, 0)),
        }
        if self.coefficient:
            found["sparsity_coefficient"] = state.sparsity
        if state.k is not None:
            found["k"] = float(state.k)
        return found

    @torch.no_grad()
    def finished(self) -> Coder:
        """A copy of the coder as one keeps it: evaluation mode, in units of the model's activations."""
        coder = deepcopy(self.coder)
        if isinstance(self.optimizer, ScheduleFreeAdam):
            for kept, parameter in zip(coder.parameters(), self.coder.parameters(), strict=True):
                kept.copy_(self.optimizer.mean(parameter))
            if coder.config.unit_decoder:
                coder.normalise_decoder()
        coder.scale_units(self.scales.inputs, self.scales.outputs)
        return coder.eval()

    def tensors(self) -> dict[str, Tensor]:
        """Everything that the next step depends on and is a tensor."""
        found = {f"weights.{name}": value for name, value in self.coder.state_dict().items()}
        for name, parameter in self.coder.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                found[f"optimizer.{key}.{name}"] = value
        sums = {f"window.{name}": value for name, value in self.window.sums.items()}
        return found | sums | {"since_fired": self.since_fired}

    def numbers(self) -> dict[str, Any]:
        """Everything that it depends on and is not; JSON-ready."""
        groups = self.optimizer.param_groups
        return {
            "n_steps": self.n_steps,
            "scales": [self.scales.inputs, self.scales.outputs],
            "coefficient": self.coefficient,
            "window_steps": self.window.steps,
            "optimizer": [{k: v for k, v in group.items() if k != "params"} for group in groups],
        }

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Go on from what :meth:`tensors` and :meth:`numbers` gave: further steps are equal to the bit."""
        place = self.coder.b_dec.device
        self.coder.load_state_dict(_under("weights.", tensors))
        kept = _under("optimizer.", tensors)
        for name, parameter in self.coder.named_parameters():
            found = {key.split(".", 1)[0]: v.to(place) for key, v in kept.items() if _owner(key) == name}
            if found:
                self.optimizer.state[parameter] = found
        for group, saved in zip(self.optimizer.param_groups, numbers["optimizer"], strict=True):
            group.update({k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()})
        self.since_fired = tensors["since_fired"].to(place)
        sums = {name: value.to(place) for name, value in _under("window.", tensors).items()}
        self.window = Window(sums, numbers["window_steps"])
        self.scales = Scales(*numbers["scales"])
        self.n_steps, self.coefficient = numbers["n_steps"], numbers["coefficient"]


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): v for name, v in tensors.items() if name.startswith(prefix)}


def _owner(key: str) -> str:
    """The parameter that a value of the optimiser belongs to: ``exp_avg.W_dec`` -> ``W_dec``."""
    return key.split(".", 1)[1]
