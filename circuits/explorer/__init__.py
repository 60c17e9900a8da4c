"""Ask a model by pointing: views of a prompt, questions about them, and pages that show answers."""
