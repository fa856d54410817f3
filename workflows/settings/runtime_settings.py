"""What a run is told of the machines it runs on."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from workflows.settings.section import Section


class RuntimeSettings(Section):
    """Where and how wide it runs. It may differ when a run is resumed.

    The number of actors changes no bit of a result, but for ``fit_actors``: it changes the order of float64 sums, about
    1e-12 of a parameter. Another device or number of threads changes the last bits of
    activations and of trained weights.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    actors: int | None = Field(None, gt=0, description="actors at work at once; default: one per GPU or core")
    fit_actors: int = Field(1, gt=0, description="W: actors that share one fit")
    threads: int = Field(1, gt=0, description="torch threads of an actor; 1 keeps words independent of actors")
    decode_threads: int = Field(2, gt=0, description="picture decoding threads of an actor")
    max_attempts: int = Field(3, gt=0, description="tries of a shard before the run stops")
    retry_wait_s: float = Field(
        15.0,
        ge=0,
        description="seconds before a shard is tried again whose files could not be read; four times as long before "
        "each further try",
    )
    item_timeout_s: float | None = Field(
        None,
        gt=0,
        description="seconds after which a shard or a figure counts as hung and is tried again; default: 20 times the "
        "median of those that are done, and at least hang_floor_s",
    )
    hang_floor_s: float = Field(300.0, gt=0, description="seconds before which nothing counts as hung by default")
    hung_after_s: float = Field(
        1800.0,
        gt=0,
        description="seconds after which a fit actor counts as hung and its group starts again from the checkpoint: "
        "for 10 steps, or all held-out images at the end of an epoch",
    )
    disk_margin: float = Field(1.1, ge=1, description="free disk must be the plan's size times this")
    memory_gb: float | None = Field(None, gt=0, description="memory the plan may use; default: what is free")

    @property
    def patience(self) -> tuple[int, float]:
        """With storage that is away, of what the driver reads itself: tries, and seconds before the second of them."""
        return self.max_attempts, self.retry_wait_s
