"""The receiver kit: every message of a lineside box handled exactly once, holes found and asked for again.

Only paho-mqtt and the standard library: the folder may be copied. docs/subscriber.md says what is guaranteed.
"""

from .asker import Box, Request
from .inbox import Inbox, Missing
from .receiver import Receiver
from .signer import Signer, canonical

__all__ = ["Box", "Inbox", "Missing", "Receiver", "Request", "Signer", "canonical"]
