"""One function a command of `lineside`; each builds what it needs through pipeline.py and daemon.py."""
