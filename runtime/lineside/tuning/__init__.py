"""Measures on this box what a bundle's files answer and how soon, on every runtime and device, and pins the best."""
