"""What the words of the page mean, a sentence each."""

from __future__ import annotations

from collections.abc import Mapping

TERMS: Mapping[str, str] = {
    "token": "A piece of text that the model reads as one: a word, part of one, or a sign.",
    "start token": "A token that stands before every text, where heads rest that have nothing to "
    "look at.",
    "position": "A token's place in the prompt, counted from 0, the start token included.",
    "probability": "How likely the model finds a token, given all tokens before it.",
    "logit": "The score of a token from which its probability is made; only differences between "
    "logits count.",
    "answer": "The token that is followed; the likeliest next one if none is named.",
    "distractor": "The token that the answer is compared with; the likeliest other one if none is "
    "named.",
    "logit difference": "The answer's logit minus the distractor's: above 0 the model prefers the "
    "answer.",
    "contrast": "A second prompt, token for token as long, that differs where it matters.",
    "layer": "One block of the model: its attention heads, then its MLP.",
    "head": "A part of a layer that looks at earlier tokens and moves what it finds there.",
    "MLP": "The part of a layer that works on each token by itself, made of neurons.",
    "neuron": "One unit of an MLP: it fires on some inputs, and then writes a fixed direction.",
    "attention": "How a head shares out its look: at each token it has weights over all tokens up "
    "to it, which sum to 1.",
    "query": "What a head asks for at the token that looks.",
    "key": "What a head offers at a token that is looked at.",
    "value": "What a head takes along from a token that is looked at.",
    "stream": "The residual stream: the vector of each token to which every part adds what it "
    "writes, and from which the prediction is read.",
    "ablation": "Running the model with a part's output replaced, to see what breaks without it.",
    "zero": "What the part writes is replaced by nothing.",
    "mean": "What the part writes is replaced by its mean over the prompt's tokens.",
    "resample": "What the part writes is replaced by what it writes in the contrast.",
    "direct effect": "What a part itself adds to the logit difference, not counting what later "
    "parts make of it.",
    "patching": "Running the contrast with one part's output taken from the prompt, to see what "
    "that restores.",
    "freeze": "Attention patterns are held as they are without any edit, so that only what is "
    "moved may change.",
    "scale": "What the part writes is multiplied by a number.",
    "steer": "A token's direction is added, as long as so many times what passes there.",
    "kind": "What a head does on test prompts, such as induction; from its report card.",
    "induction": "Looking for the last time this token occurred, and at what came next.",
    "logit lens": "What each layer would say if it were the last: its stream, read as a "
    "prediction.",
    "tuned lens": "A logit lens with a small learned translation for each layer.",
    "composition": "How much of what one head writes another head reads, by their weights.",
    "circuit": "The few parts and connections that do a task.",
    "tray": "Edits that stay on while you look; each can be switched off.",
    "continuation": "How the text goes on if the likeliest token is taken again and again.",
}
