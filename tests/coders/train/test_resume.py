"""Training that was stopped and taken up again ends where it would have ended: weights, curves, metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from coder_toys import (
    KINDS,
    SHORT,
    Joint,
    StopAt,
    StopError,
    Untold,
    differences,
    draw_rows,
    train_in_pieces,
    weights_of,
)

import interp
from interp.coders import Coder, CoderConfig, train_coder, train_coders
from interp.coders.sources import stream_activations
from interp.errors import CoderError

TOPK = KINDS["topk"]


def _check(
    configs: dict[str, CoderConfig], make_rows: Any, folder: Path, points: int, **options: Any
) -> dict[str, Coder]:
    whole = train_coders(configs, make_rows(), progress=False, **options)
    pieces, stops = train_in_pieces(configs, make_rows, folder, points, **options)
    assert stops >= 2
    assert differences(whole, pieces) == []
    # a finished training is read back
    again = train_coders(configs, make_rows(), checkpoint=folder, progress=False, **options)
    assert differences(whole, again) == []
    return whole


@pytest.mark.parametrize("optimizer", ["adam", "schedule-free"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_architecture_resumes_to_the_bit(kind: str, optimizer: str, tmp_path: Path) -> None:
    options = {**SHORT, "tokens": 900, "optimizer": optimizer}
    _check({"a": KINDS[kind]}, lambda: draw_rows(kind), tmp_path, 4, **options)


@pytest.mark.parametrize("optimizer", ["adam", "schedule-free"])
@pytest.mark.parametrize("revival", ["auxk", "ghost", "resample", "none"])
def test_every_revival_resumes_to_the_bit(revival: str, optimizer: str, tmp_path: Path) -> None:
    # batches so small that many latents do not fire for two of them
    options = {
        **SHORT,
        "tokens": 304,
        "batch_size": 8,
        "start_rows": 20,
        "revival": revival,
        "optimizer": optimizer,
    }
    options |= {"dead_after": 16, "resample_every": 0.15, "log_every": 1}
    configs = {kind: KINDS[kind] for kind in ("topk", "gated", "jumprelu")}
    coders = _check(configs, draw_rows, tmp_path, 11, **options)
    history = coders["topk"].history
    assert history is not None
    assert float(history.curve("dead_frac").mean()) > 0.05
    assert f"loss:{revival}" in history.curves or revival in ("resample", "none")


def test_stops_at_every_single_step(tmp_path: Path) -> None:
    # start_rows of 80 are three batches that wait; the data are 350 rows, so epochs end inside batches
    options = {**SHORT, "tokens": 900, "log_every": 1, "k_start": 9, "k_warmup": 0.5}
    _check({"a": KINDS["batch-topk"]}, draw_rows, tmp_path, 1, **options)


def test_schedules_and_a_wanted_l0_resume(tmp_path: Path) -> None:
    options = {**SHORT, "tokens": 1200, "target_l0": 4.0, "sparsity_warmup": 0.1, "k_start": 8}
    configs = {kind: KINDS[kind] for kind in ("standard", "gated", "jumprelu", "topk")}
    _check(configs, draw_rows, tmp_path, 5, **options)


def test_epochs_and_joint_rows_resume(tmp_path: Path) -> None:
    names = {"one": "topk", "two": "transcoder", "three": "gradient"}
    rows = {name: draw_rows(kind, n=203, seed=5) for name, kind in names.items()}
    configs = {name: KINDS[kind] for name, kind in names.items()}
    _check(
        configs, lambda: Joint(rows), tmp_path, 2, **{**SHORT, "epochs": 3, "buffer_rows": 70, "log_every": 2}
    )


def test_a_source_of_unknown_length_resumes(tmp_path: Path) -> None:
    _check({"a": TOPK}, lambda: Untold(draw_rows()), tmp_path, 1, **{**SHORT, "log_every": 2})


def test_a_stream_from_a_model_resumes(tmp_path: Path) -> None:
    model = interp.load_model("micro")
    tokens = torch.randint(model.traits.d_vocab, (40, 9), generator=torch.Generator().manual_seed(0))
    site = "resid_post[0]"
    _check(
        {"a": TOPK},
        lambda: stream_activations(model, tokens, site, batch_size=7),
        tmp_path,
        2,
        **{**SHORT, "tokens": 700},
    )


def test_resumes_from_a_checkpoint_that_is_some_steps_old(tmp_path: Path) -> None:
    options = {**SHORT, "tokens": 900, "checkpoint_every": 7}
    whole = train_coder(TOPK, draw_rows(), progress=False, **options)

    class Failing(Untold):
        def __init__(self, after: int) -> None:
            super().__init__(draw_rows())
            self.next_chunk = self._next
            self.left = after

        def _next(self) -> Any:
            self.left -= 1
            if not self.left:
                raise StopError
            # small chunks, so that it fails somewhere within
            return self.source.next_chunk()

    for after in (3, 3):
        with pytest.raises(StopError):
            train_coder(TOPK, Failing(after), checkpoint=tmp_path, progress=False, **options)
    assert [path.name for path in tmp_path.glob("step-*")]
    found = train_coder(TOPK, draw_rows(), checkpoint=tmp_path, progress=False, **options)
    assert differences({"a": whole}, {"a": found}) == []


def test_the_interval_of_checkpoints_may_change_and_nothing_else(tmp_path: Path) -> None:
    options = {**SHORT, "tokens": 900}
    with pytest.raises(StopError):
        train_coder(TOPK, draw_rows(), checkpoint=tmp_path, callbacks=[StopAt(2)], progress=False, **options)
    with pytest.raises(CoderError, match=r"training\.learning_rate: 0.003 there, 0.1 here"):
        train_coder(
            TOPK, draw_rows(), checkpoint=tmp_path, progress=False, **{**options, "learning_rate": 0.1}
        )
    with pytest.raises(CoderError, match=r"coders\.coder\.k: 3 there, 4 here"):
        train_coder(
            CoderConfig("topk", d_sae=24, k=4, multi_k=True),
            draw_rows(),
            checkpoint=tmp_path,
            progress=False,
            **options,
        )
    with pytest.raises(CoderError, match="other activations"):
        train_coder(TOPK, draw_rows(seed=9), checkpoint=tmp_path, progress=False, **options)
    whole = train_coder(TOPK, draw_rows(), progress=False, **options)
    found = train_coder(TOPK, draw_rows(), checkpoint=tmp_path, progress=False, checkpoint_every=2, **options)
    assert {k: v.tolist() for k, v in weights_of(whole).items()} == {
        k: v.tolist() for k, v in weights_of(found).items()
    }


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CoderError, match="holds other files"):
        train_coder(TOPK, draw_rows(), checkpoint=tmp_path, progress=False, **SHORT)
    with pytest.raises(CoderError, match="is a file"):
        train_coder(TOPK, draw_rows(), checkpoint=tmp_path / "notes.txt", progress=False, **SHORT)
