"""Properties that must hold for every input, looked for with Hypothesis."""
