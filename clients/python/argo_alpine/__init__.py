"""Client of argo-alpine: trading signals polled and streamed without gap or duplicate."""

from .client import Client, Page
from .errors import ArgoError, StreamEnded
from .frame import to_dataframe
from .signals import Accepted, Signal
from .stream import Stream

__all__ = [
    "Accepted",
    "ArgoError",
    "Client",
    "Page",
    "Signal",
    "Stream",
    "StreamEnded",
    "to_dataframe",
]
