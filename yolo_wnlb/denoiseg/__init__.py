"""DenoiSeg: one U-Net that denoises and segments, for many noisy pictures of which few have labels.

`blindspots` hides pixels from a network (Noise2Void), `pictures` adds noise, `unet` is the network with its loss, `fit`
trains it, `detector` loads a trained one and predicts.
"""
