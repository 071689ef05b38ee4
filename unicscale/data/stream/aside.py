"""Where a batch is put together, and when: on a GPU beside the one that is being computed.

On a GPU upload and colour of a batch are enqueued on a stream of their own one batch early; the computing stream waits
for their event, and the host for nothing. Nobody counts pinned buffers: torch's pool hands memory out again only after
the event of the stream that reads it, so a batch in flight and those being decoded never share any, however far the
host runs ahead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from unicscale.contracts import Batch

Handing = Callable[[], Batch]  # called once, by whoever computes with the batch


class Aside(Protocol):
    """Puts batches together."""

    def begin(self, make: Handing) -> Handing:
        """Called as soon as a batch is decoded; what comes back hands it over."""
        ...


class WhenAsked:
    """On the host: early work would only make the batch before it wait."""

    def begin(self, make: Handing) -> Handing:
        """Nothing yet."""
        return make


class SideStream:
    """On a GPU, beside what it computes; on a CPU at once."""

    def __init__(self, device: torch.device) -> None:
        self.streams = torch.get_device_module(device)
        self.stream = self.streams.Stream(device)

    def begin(self, make: Handing) -> Handing:
        """All of it is enqueued here."""
        with self.streams.stream(self.stream):
            batch = make()
            done = self.stream.record_event()

        def hand() -> Batch:
            computing = self.streams.current_stream()
            computing.wait_event(done)
            for tensor in (batch.images, batch.index, batch.domain):
                if tensor.device.type != "cpu":  # its memory is not this side's again before the computing is done
                    tensor.record_stream(computing)
            return batch

        return hand


def aside_for(device: torch.device) -> Aside:
    """What suits the device."""
    return SideStream(device) if device.type == "cuda" else WhenAsked()
