"""Fault injection: single faults, pairs and random sequences, and the guarantees that must hold.

`python -m tests.faults` has the commands. `catalogue.py` is the list of faults, `stage.py` the node with
kubelet and service, `watching.py` the observer, `trial.py` the checks. The checks use only kubelet and
/proc, not the code of the service.
"""
