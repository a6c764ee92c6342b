"""What is on disk and who may write it. The journal of a run is the truth; everything else can be recreated from it."""
