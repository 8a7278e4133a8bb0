"""The chaos suite's parts: a proxy that breaks the link, a line to kill, a receiver, and a verdict."""
