"""A real kubelet and real pods: built here, run in a mount namespace, asked for what they saw."""
