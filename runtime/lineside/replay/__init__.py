"""Decisions again, from their evidence: the same as then, or what another model would have said."""
