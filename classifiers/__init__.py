"""Classifiers of sex, dementia and NC/MCI/AD with the manners of scikit-learn.

- base: VolumeClassifier, a scikit-learn estimator
- sex, dementia, stage: what it tells
- training_set: labelled subjects, read once, and who they are
- inputs: images as a network takes them: standardised, in batches
- networks: from a volume to logits
- training: skorch's loop in chunks, validation, calibration
- saving: JSON and safetensors
- evaluate: predict, cross-validate, learning curves
- predictions: what runs said of test subjects
- scores: of weighted predictions
- statistics: intervals and tests over subjects and seeds
"""
