"""Sound as models take it: a waveform, or frames of a spectrogram."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from calib.trace.passes.inputs import SECONDS, Inputs, found

FRAMES_PER_SECOND = 100
"""Of a spectrogram, hops of 10 ms."""


def sound_forms(made: Inputs) -> Iterator[torch.Tensor]:
    """A window of sound in the forms it may have, the likeliest first."""
    mels = mel_bins(made)
    lengths = window(made)
    if mels:
        for frames in lengths:
            yield made.noise(mels, frames)
            yield made.noise(frames, mels)
            yield made.noise(1, frames, mels)
    samples = SECONDS * (found(made.config, "sampling_rate", "sample_rate") or 16_000)
    yield made.noise(samples)
    yield made.noise(found(made.config, "audio_channels") or 1, samples)
    width = found(made.config, "feature_size", "input_dim", "hidden_size")
    if isinstance(width, int):
        yield made.noise(SECONDS * FRAMES_PER_SECOND, width)


def mel_bins(made: Inputs) -> int | None:
    given = found(made.config, "num_mel_bins", "n_mels", "feature_projection_input_dim")
    given = given or found(made.config, "input_feat_per_channel", "num_freq_bins")
    return given if isinstance(given, int) else None


def window(made: Inputs) -> list[int]:
    """Frames: those of the model's own window, whose encoder halves them, then of 30 s."""
    own = getattr(made.config, "max_source_positions", None)
    fixed = found(made.config, "max_length", "spec_size")
    lengths = [2 * own] if isinstance(own, int) else []
    lengths += [SECONDS * FRAMES_PER_SECOND]
    lengths += [fixed] if isinstance(fixed, int) and fixed > 64 else []
    return lengths
