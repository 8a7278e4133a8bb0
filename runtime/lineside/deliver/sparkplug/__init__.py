"""The Sparkplug B 3.0 sink: this box as an edge node, each station as a device. docs/sparkplug.md says it for users."""
