"""Classifiers of sex, dementia and NC/MCI/AD with the manners of scikit-learn."""
