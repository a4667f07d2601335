"""Sweeps over agents, sequences, settings and seeds; each run gives the same results as when trained separately.

``plan`` reads what to run, ``manifest`` lists it as runs in a sweep folder, ``job`` trains or resumes one of them,
``engine`` is the interface of engines, and ``schedule`` submits jobs to an engine until all have ended. Engines only
place jobs: ``local`` in processes of this machine, ``ray_engine`` on a Ray cluster. ``slurm`` submits all of them as a
job array instead.
"""
