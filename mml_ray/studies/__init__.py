"""A study (a hyper-parameter search): its settings and its state. Pure: no Ray, no torch."""
