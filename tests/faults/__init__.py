"""What goes wrong on a node: one thing at a time, in pairs and at random, and what must hold all the same.

`python -m tests.faults` has the commands. `catalogue.py` is the list, `stage.py` what they happen to,
`watching.py` who looks on meanwhile, `trial.py` what must hold. Nothing here uses the service's own code:
what is seen is what kubelet and /proc show.
"""
