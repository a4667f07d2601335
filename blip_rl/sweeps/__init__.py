"""Many runs: agents × sequences × settings × seeds, each equal to the run alone.

``plan`` reads what to run, ``manifest`` lists it as runs in a sweep folder, ``job`` trains or resumes one of them,
``engine`` says what an engine does, and ``schedule`` gives jobs to an engine until all are done. Engines only place
jobs: ``local`` in processes of this machine, ``slurm`` as a job array.
"""
