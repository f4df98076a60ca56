"""Classifiers on torchvision's ResNets, trained on clean or attacked pictures, from scratch or from other weights.

`nets` builds them and reads published weights, `fit` trains, `detector` loads a trained one and predicts.
"""
