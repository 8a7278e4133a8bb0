"""What proves a decision: its frames, what was seen in them and what was known before, on disk."""
