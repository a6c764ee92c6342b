"""One fit, one prediction: Lightning, with checkpoints that survive anything and a resume that is exact to the bit."""
