"""On paper: all edges of GPT-2 XL on a hundred thousand prompts, on a cluster of 32 machines."""


def plan(results):
    return []
