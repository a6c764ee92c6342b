"""Every metric once, as a function of prediction rows: numpy and scikit-learn, no torch.

Training calls them at the end of an epoch with the rows that it collected, a report calls them with the rows of a prediction file.
A plugin registers its own in the same way as those that ship::

    from mml_ray.metrics.definition import metric
    from mml_ray.metrics.rows import Rows

    @metric("landmark_error", "kp")
    def landmark_error(rows: Rows, scale: float = 1.0) -> float:
        '''Mean distance between predicted and true landmarks, in pixels times ``scale``.'''
        return float(np.linalg.norm(rows.scores - rows.targets, axis=-1).mean() * scale)
"""
