"""An example plugin of mml-ray."""
