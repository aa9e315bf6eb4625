"""One coder in training: its optimiser, its schedules, its dead latents, and one step of it."""

from __future__ import annotations

from dataclasses import dataclass
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
from interp.coders.train.resample import resample_dead
from interp.coders.train.schedules import Schedule, steer_sparsity
from interp.coders.train.start import Scales, find_scales, start_bias


@dataclass
class Window:
    """Sums over the steps since the last point of the curves."""

    rows: int = 0
    error: float = 0.0
    spread: float = 0.0
    l0: float = 0.0
    losses: dict[str, float] | None = None
    steps: int = 0

    def add(self, loss: CoderLoss, target: Float[Tensor, "row d_out"], rows: int, l0: float) -> None:
        """Take in one step."""
        self.rows += rows
        self.steps += 1
        self.error += float(loss.error.square().sum())
        self.spread += float((target - target.mean(0)).square().sum())
        self.l0 += l0
        losses = {"loss": float(loss.loss.detach()), **{name: float(v) for name, v in loss.parts.items()}}
        if self.losses is None:
            self.losses = dict.fromkeys(losses, 0.0)
        for name, value in losses.items():
            self.losses[name] = self.losses.get(name, 0.0) + value


class CoderLearner:
    """Trains one coder, a batch at a time, in units that its scales make."""

    def __init__(
        self, coder: Coder, training: TrainingConfig, steps: int | None, processes: Processes
    ) -> None:
        self.coder = coder
        self.training = training
        self.processes = processes
        self.schedule = Schedule(training, coder.config, steps)
        self.optimizer = make_optimizer(coder.parameters(), training, self.schedule.rate(0))
        self.scales = Scales()
        self.n_steps = 0
        self.window = Window()
        self.since_fired = torch.zeros(len(coder.encoders), coder.d_sae, dtype=torch.long)
        default = coder.encoder_list[0].default_sparsity
        wanted = coder.config.sparsity
        self.coefficient = float(wanted if wanted is not None else default or 0.0)
        self.resampled = 0

    def start(self, rows: CoderBatch) -> None:
        """Find scales and the decoder's bias from the first rows; every process gets the first one's."""
        self.scales = find_scales(rows, self.training)
        start_bias(self.coder, self.scales.apply(rows), self.training)
        inputs, outputs = self.processes.from_first([self.scales.inputs, self.scales.outputs])
        self.scales = Scales(inputs, outputs)
        self.processes.share_weights(self.coder)

    @property
    def dead(self) -> Bool[Tensor, "encoder d_sae"]:
        """Latents that have not fired for long."""
        return self.since_fired >= self.training.dead_after

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
            dead=self.dead.to(self.coder.b_dec.device),
            revival=training.revival if training.revival in ("auxk", "ghost") else "none",
            aux_k=training.aux_k,
            aux_coefficient=training.aux_coefficient,
        )

    def step(self, batch: CoderBatch) -> CoderLoss:
        """Train on one batch, in units of the activations; returns its loss, in training units.

        Raises :class:`FloatingPointError` for a loss that is not finite; weights are then as before.
        """
        self.coder.train()
        units = self.scales.apply(batch)
        loss = self.coder.loss(units, self.state_now())
        if not bool(torch.isfinite(loss.loss)):
            raise FloatingPointError(
                f"the loss of step {self.n_steps} is {float(loss.loss)}; the learning rate may be too high, or "
                "activations not finite."
            )
        loss.loss.backward()
        self.processes.average_gradients(self.coder)
        self._move()
        self._count(loss, units)
        if self.schedule.resamples(self.n_steps):
            self._resample(units, loss)
        self.n_steps += 1
        return loss

    def _move(self) -> None:
        coder, training = self.coder, self.training
        # unit rows are the parameters' own, which schedule-free keeps at two points
        unit = coder.config.unit_decoder and training.optimizer == "adam"
        if unit:
            coder.project_gradients()
        if training.gradient_norm is not None:
            torch.nn.utils.clip_grad_norm_(coder.parameters(), training.gradient_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(self.n_steps)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if unit:
            coder.normalise_decoder()
        self.processes.average_buffers(coder)

    def _count(self, loss: CoderLoss, batch: CoderBatch) -> None:
        counts = torch.stack([fired.active_counts() for fired in loss.fired]).cpu()
        counts = self.processes.add_up(counts)
        rows = len(batch) * self.processes.n
        self.since_fired = torch.where(counts > 0, 0, self.since_fired + rows)
        l0 = float(counts.sum()) / max(rows, 1)
        self.window.add(loss, batch.target.flatten(1), len(batch), l0)
        if self.training.target_l0 is not None and self.coefficient:
            self.coefficient = steer_sparsity(self.coefficient, l0, self.training.target_l0)

    def _resample(self, batch: CoderBatch, loss: CoderLoss) -> None:
        generator = torch.Generator().manual_seed(self.training.seed * 1_000_003 + self.n_steps)
        error = loss.error
        self.resampled += resample_dead(self.coder, self.optimizer, batch, error, self.dead, generator)
        self.since_fired[self.dead] = 0
        self.processes.share_weights(self.coder)

    def figures(self) -> dict[str, float]:
        """The curves' next point, from the steps since the last one; begins a new window."""
        window, self.window = self.window, Window()
        n = max(window.steps, 1)
        found = {name: value / n for name, value in (window.losses or {}).items()}
        state = self.state_now()
        found |= {
            "l0": window.l0 / n,
            "fvu": window.error / window.spread if window.spread else 0.0,
            "dead_frac": self.dead_frac,
            "learning_rate": self.schedule.rate(max(self.n_steps - 1, 0)),
            "sparsity_coefficient": state.sparsity,
        }
        if state.k is not None:
            found["k"] = float(state.k)
        return found

    def finished(self) -> Coder:
        """A copy of the coder as one keeps it: evaluation mode, in units of the model's activations."""
        from copy import deepcopy

        averaged = isinstance(self.optimizer, ScheduleFreeAdam)
        if averaged:
            self.optimizer.eval()
        coder = deepcopy(self.coder)
        if averaged:
            self.optimizer.train()
        for parameter in coder.parameters():
            parameter.grad = None
        coder.scale_units(self.scales.inputs, self.scales.outputs)
        return coder.eval()

    # to be saved and taken up again

    def tensors(self) -> dict[str, Tensor]:
        """Everything of it that is a tensor."""
        found = {f"weights.{name}": value for name, value in self.coder.state_dict().items()}
        names = [name for name, _ in self.coder.named_parameters()]
        for name, parameter in zip(names, self.coder.parameters(), strict=True):
            for key, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    found[f"optimizer.{key}.{name}"] = value
        return found | {"since_fired": self.since_fired}

    def numbers(self) -> dict[str, Any]:
        """Everything of it that is not."""
        groups = self.optimizer.param_groups
        return {
            "n_steps": self.n_steps,
            "scales": [self.scales.inputs, self.scales.outputs],
            "coefficient": self.coefficient,
            "resampled": self.resampled,
            "window": vars(self.window),
            "optimizer": [{k: v for k, v in group.items() if k != "params"} for group in groups],
        }

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Go on from what :meth:`tensors` and :meth:`numbers` gave."""
        weights = {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}
        self.coder.load_state_dict(weights)
        for name, parameter in self.coder.named_parameters():
            kept = {
                key.split(".")[1]: value.to(parameter.device)
                for key, value in tensors.items()
                if key.startswith("optimizer.") and key.split(".", 2)[2] == name
            }
            if kept:
                self.optimizer.state[parameter] = kept
        for group, saved in zip(self.optimizer.param_groups, numbers["optimizer"], strict=True):
            group.update({k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()})
        self.since_fired = tensors["since_fired"]
        self.scales = Scales(*numbers["scales"])
        self.n_steps, self.coefficient = numbers["n_steps"], numbers["coefficient"]
        self.resampled, self.window = numbers["resampled"], Window(**numbers["window"])
