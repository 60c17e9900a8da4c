"""How does cost grow: with the model, the context, the prompts, the cells, and the workers?

    python -m experiments.benchmarks --scaling            # writes results/scaling.json, .md, .svg
    python -m experiments.benchmarks --scaling --quick    # a rehearsal with tiny models

Every measurement (`points`) runs in a process of its own (`tasks`), so its peak of memory is its
own, with one thread, and by the processor's clock where one process does it all, so that other
programs hardly matter. What would not fit into the memory that is free is skipped, with a word;
what takes longer than its limit is stopped. Each result is written down as it comes: a run that
was interrupted goes on where it was, and what was measured on this machine with this code is not
measured again without `--again`.

Exponents are slopes of straight lines through the logarithms (`fits`). Beside each stands that of
the arithmetic of the cheapest exact algorithm at the same sizes (`counting`).
"""
