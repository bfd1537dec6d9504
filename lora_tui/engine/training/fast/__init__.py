"""The layers of a training step with forward and backward written by hand: the same mathematics in fewer passes.

Each module holds one kind of layer and knows nothing of models; `layers` puts them in the place of a model's own for
the length of a step. Nothing here is needed for the result: the model's own layers give the same loss and gradients.
"""
