"""Claim: the questions of this package are answered faster here than by its peers, and as exactly.

    python -m experiments.benchmarks --install    # the peers, each in an environment of its own
    python -m experiments.benchmarks              # 25 minutes; writes results/DAY/ and README.md

Every library runs in a process of its own and gets the same checkpoint folder, the same tokens and
the same number of threads. The driver sends one task to each in turn, again and again, so that
whatever else the machine does meets all of them alike; it takes medians, and reports a time only if
the numbers that came with it are those of the others. All libraries hold the model at once, so it
wants a machine with memory to spare, and with nothing else to do.

`--install` uses this Python and this version of torch. Where PyPI's torch brings CUDA along and
there is no GPU, set PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu before.

The EAP-IG package may also stand in a folder: PYTHONPATH=folder/src, with `--peer eap_ig=PYTHON`
of a Python that has TransformerLens 3. On a machine that does other things, `--clock processor
--threads 1` counts what the processor spends on each library.
"""
