"""Classifiers on torchvision's ResNets, trained on clean or attacked pictures, from scratch or from other weights.

`nets` builds them and reads published weights, `fit` trains, `fusion` joins two of them, `fusion_fit` trains the layer
that joins them, `detector` loads a trained one and predicts.
"""
