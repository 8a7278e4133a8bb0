"""The parts of tools/bench_path.py."""
